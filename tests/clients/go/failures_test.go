// Refusals, negotiation, blocking, and coming back after a loss.
package clients

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestMissingQueueClosesTheChannelOnly(t *testing.T) {
	connection := connect(t)
	channel := must[*amqp.Channel](t)(connection.Channel())
	queue := name("none")
	_, err := channel.QueueDeclarePassive(queue, false, false, false, false, nil)
	refused(t, err, 404, fmt.Sprintf("NOT_FOUND - no queue '%s' in vhost '/'", queue))
	declare(t, must[*amqp.Channel](t)(connection.Channel()), nil)
}

func TestMissingExchangeClosesTheChannel(t *testing.T) {
	channel := open(t)
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	exchange := name("none")
	publish(t, channel, exchange, "k", "x")
	text := fmt.Sprintf("NOT_FOUND - no exchange '%s' in vhost '/'", exchange)
	refused(t, <-closed, 404, text)
}

func TestExclusiveQueueIsLocked(t *testing.T) {
	queue := declare(t, open(t), nil)
	_, err := open(t).QueuePurge(queue, false)
	start := "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + queue + "' "
	if refusal, ok := err.(*amqp.Error); !ok || refusal.Code != 405 ||
		!strings.HasPrefix(refusal.Reason, start) {
		t.Fatal(err)
	}
}

func TestDifferentRedeclaration(t *testing.T) {
	channel := open(t)
	direct := exchange(t, channel, "direct", nil)
	err := channel.ExchangeDeclare(direct, "topic", false, true, false, false, nil)
	text := "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '%s' in vhost '/': " +
		"received 'topic' but current is 'direct'"
	refused(t, err, 406, fmt.Sprintf(text, direct))
}

func TestWrongPassword(t *testing.T) {
	_, err := amqp.Dial(strings.Replace(brokerURL(), "guest:guest@", "guest:wrong@", 1))
	if refusal, ok := err.(*amqp.Error); !ok || refusal.Code != 403 {
		t.Fatal(err)
	}
}

func TestSmallFramesAndHeartbeats(t *testing.T) {
	settings := amqp.Config{FrameSize: 4096, Heartbeat: time.Second}
	connection := must[*amqp.Connection](t)(amqp.DialConfig(brokerURL(), settings))
	defer connection.Close()
	equal(t, connection.Config.FrameSize, 4096)
	channel := must[*amqp.Channel](t)(connection.Channel())
	queue := declare(t, channel, nil)
	publish(t, channel, "", queue, strings.Repeat("x", 100_000))
	time.Sleep(3 * time.Second)
	equal(t, len(drain(t, channel, queue)), 100_000)
}

func TestReconnectAfterTheConnectionIsCut(t *testing.T) {
	proxy, url := newProxy(t)
	connection := must[*amqp.Connection](t)(amqp.Dial(url))
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	channel := must[*amqp.Channel](t)(connection.Channel())
	queue := name("kept")
	_, err := channel.QueueDeclare(queue, false, false, false, false, nil)
	check(t, err)
	fill(t, channel, queue, 3)
	take(t, channel, queue, 2)
	proxy.cut()
	<-closed
	again := must[*amqp.Connection](t)(amqp.Dial(url))
	defer again.Close()
	channel = must[*amqp.Channel](t)(again.Channel())
	eventually(t, func() bool { return ready(t, channel, queue) == 3 })
	equal(t, drain(t, channel, queue), "0* 1* 2")
	_, err = channel.QueueDelete(queue, false, false, false)
	check(t, err)
}

func TestReconnectAfterTheBrokerCloses(t *testing.T) {
	connection := connect(t)
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	channel := must[*amqp.Channel](t)(connection.Channel())
	_ = channel.Recover(false)
	refused(t, <-closed, 540, "NOT_IMPLEMENTED - requeue=false")
	declare(t, open(t), nil)
}

func TestBlockedAndUnblocked(t *testing.T) {
	raising, clearing := os.Getenv("ALARM_RAISE"), os.Getenv("ALARM_CLEAR")
	if raising == "" || clearing == "" {
		t.Skip("the environment names no command that raises an alarm")
	}
	connection := connect(t)
	blockings := connection.NotifyBlocked(make(chan amqp.Blocking, 2))
	channel := must[*amqp.Channel](t)(connection.Channel())
	check(t, exec.Command("sh", "-c", raising).Run())
	defer exec.Command("sh", "-c", clearing).Run()
	publish(t, channel, "", "nowhere", "x")
	equal(t, (<-blockings).Active, true)
	check(t, exec.Command("sh", "-c", clearing).Run())
	equal(t, (<-blockings).Active, false)
}
