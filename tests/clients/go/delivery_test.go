// Bodies, prefetch, order of what comes back, and the end of consumers.
package clients

import (
	"crypto/sha256"
	"fmt"
	"math/rand"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestBodiesOfEverySize(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	const frame = 131072 - 8
	for _, size := range []int{0, 1, frame - 1, frame, frame + 1, 2 * frame, 20_000_000} {
		sent := make([]byte, size)
		rand.New(rand.NewSource(int64(size))).Read(sent)
		check(t, channel.Publish("", queue, false, false, amqp.Publishing{Body: sent}))
		received, ok, err := channel.Get(queue, true)
		check(t, err)
		equal(t, ok, true)
		equal(t, len(received.Body), size)
		equal(t, sha256.Sum256(received.Body), sha256.Sum256(sent))
	}
}

func TestHeadersOfEveryType(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	headers := amqp.Table{
		"text": "grüße", "int": int32(-5), "long": int64(1) << 40, "byte": byte(200),
		"short": int16(-3), "float": float32(0.5), "double": 2.5, "true": true, "nil": nil,
		"bytes": []byte{0, 255}, "list": []interface{}{int32(1), "two"},
		"decimal": amqp.Decimal{Scale: 2, Value: 314}, "table": amqp.Table{"a": int32(1)},
	}
	message := amqp.Publishing{Headers: headers, Priority: 3, Type: "t", AppId: "a"}
	check(t, channel.Publish("", queue, false, false, message))
	received, _, err := channel.Get(queue, true)
	check(t, err)
	equal(t, fmt.Sprint(received.Headers), fmt.Sprint(headers))
	equal(t, fmt.Sprint(received.Priority)+received.Type+received.AppId, "3ta")
}

func TestTwoConsumersAlternateExactly(t *testing.T) {
	connection := connect(t)
	first := must[*amqp.Channel](t)(connection.Channel())
	second := must[*amqp.Channel](t)(connection.Channel())
	queue := declare(t, first, nil)
	one, two := consume(t, first, queue), consume(t, second, queue)
	fill(t, first, queue, 10)
	equal(t, bodies(t, one, 5), "0 2 4 6 8")
	equal(t, bodies(t, two, 5), "1 3 5 7 9")
}

func TestPrefetch(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	check(t, channel.Qos(3, 0, false))
	deliveries := consume(t, channel, queue)
	fill(t, channel, queue, 10)
	equal(t, bodies(t, deliveries, 2), "0 1")
	third := next(t, deliveries)
	nothing(t, deliveries)
	check(t, third.Ack(true))
	equal(t, bodies(t, deliveries, 3), "3 4 5")
	nothing(t, deliveries)
}

func TestChannelWidePrefetchOverTwoQueues(t *testing.T) {
	channel := open(t)
	one, two := declare(t, channel, nil), declare(t, channel, nil)
	check(t, channel.Qos(4, 0, true))
	first, second := consume(t, channel, one), consume(t, channel, two)
	fill(t, channel, one, 3)
	fill(t, channel, two, 3)
	equal(t, bodies(t, first, 2), "0 1")
	third := next(t, first)
	equal(t, bodies(t, second, 1), "0")
	nothing(t, second)
	check(t, third.Ack(false))
	equal(t, bodies(t, second, 1), "1")
	nothing(t, second)
}

func TestWhatComesBackKeepsItsPlace(t *testing.T) {
	for how, giveBack := range map[string]func(*amqp.Channel, []amqp.Delivery) error{
		"nack multiple": func(_ *amqp.Channel, taken []amqp.Delivery) error {
			return taken[2].Nack(true, true)
		},
		"reject": func(_ *amqp.Channel, taken []amqp.Delivery) error {
			for _, index := range []int{1, 0, 2} {
				if err := taken[index].Reject(true); err != nil {
					return err
				}
			}
			return nil
		},
		"recover": func(channel *amqp.Channel, _ []amqp.Delivery) error {
			return channel.Recover(true)
		},
		"channel close": func(channel *amqp.Channel, _ []amqp.Delivery) error {
			return channel.Close()
		},
	} {
		connection := connect(t)
		channel := must[*amqp.Channel](t)(connection.Channel())
		other := must[*amqp.Channel](t)(connection.Channel())
		queue := declare(t, channel, nil)
		fill(t, channel, queue, 5)
		check(t, giveBack(other, take(t, other, queue, 3)))
		eventually(t, func() bool { return ready(t, channel, queue) == 5 })
		if found := drain(t, channel, queue); found != "0* 1* 2* 3 4" {
			t.Fatalf("%s: %s", how, found)
		}
	}
}

func TestConnectionCloseRequeues(t *testing.T) {
	channel := open(t)
	queue := name("shared")
	_, err := channel.QueueDeclare(queue, false, false, false, false, nil)
	check(t, err)
	fill(t, channel, queue, 5)
	other := connect(t)
	take(t, must[*amqp.Channel](t)(other.Channel()), queue, 3)
	check(t, other.Close())
	eventually(t, func() bool { return ready(t, channel, queue) == 5 })
	equal(t, drain(t, channel, queue), "0* 1* 2* 3 4")
	_, err = channel.QueueDelete(queue, false, false, false)
	check(t, err)
}

func TestCancelNotification(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	cancelled := channel.NotifyCancel(make(chan string, 1))
	deliveries, err := channel.Consume(queue, "tag", false, false, false, false, nil)
	check(t, err)
	_, err = channel.QueueDelete(queue, false, false, false)
	check(t, err)
	equal(t, <-cancelled, "tag")
	nothing(t, deliveries)
	declare(t, channel, nil)
}

func TestPurgeAndDeleteTellTheirCounts(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	fill(t, channel, queue, 5)
	equal(t, must[int](t)(channel.QueuePurge(queue, false)), 5)
	fill(t, channel, queue, 2)
	equal(t, must[int](t)(channel.QueueDelete(queue, false, false, false)), 2)
	equal(t, must[int](t)(channel.QueueDelete(queue, false, false, false)), 0)
}
