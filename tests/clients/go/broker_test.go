// Connections, channels and short ways to do what most tests do.
package clients

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// More than any step takes on a busy machine.
const patience = 20 * time.Second

// Long enough for what must not arrive.
const silence = 300 * time.Millisecond

func brokerURL() string { return os.Getenv("AMQP_URL") }

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func connect(t *testing.T) *amqp.Connection {
	t.Helper()
	connection := must[*amqp.Connection](t)(amqp.Dial(brokerURL()))
	t.Cleanup(func() { connection.Close() })
	return connection
}

func open(t *testing.T) *amqp.Channel {
	t.Helper()
	return must[*amqp.Channel](t)(connect(t).Channel())
}

func name(stem string) string { return fmt.Sprintf("go-%s-%d", stem, time.Now().UnixNano()) }

// An exclusive queue with a name of the broker's choice.
func declare(t *testing.T, channel *amqp.Channel, arguments amqp.Table) string {
	t.Helper()
	queue, err := channel.QueueDeclare("", false, false, true, false, arguments)
	check(t, err)
	return queue.Name
}

// An exchange that goes with its last binding.
func exchange(t *testing.T, channel *amqp.Channel, kind string, arguments amqp.Table) string {
	t.Helper()
	name := name(kind)
	check(t, channel.ExchangeDeclare(name, kind, false, true, false, false, arguments))
	return name
}

func publish(t *testing.T, channel *amqp.Channel, exchange, key string, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		message := amqp.Publishing{Body: []byte(body)}
		check(t, channel.Publish(exchange, key, false, false, message))
	}
}

func fill(t *testing.T, channel *amqp.Channel, queue string, count int) {
	t.Helper()
	for number := 0; number < count; number++ {
		publish(t, channel, "", queue, fmt.Sprint(number))
	}
	ready(t, channel, queue)
}

func ready(t *testing.T, channel *amqp.Channel, queue string) int {
	t.Helper()
	state, err := channel.QueueDeclarePassive(queue, false, false, false, false, nil)
	check(t, err)
	return state.Messages
}

func consume(t *testing.T, channel *amqp.Channel, queue string) <-chan amqp.Delivery {
	t.Helper()
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	check(t, err)
	return deliveries
}

func next(t *testing.T, deliveries <-chan amqp.Delivery) amqp.Delivery {
	t.Helper()
	select {
	case delivery, open := <-deliveries:
		if !open {
			t.Fatal("the consumer ended")
		}
		return delivery
	case <-time.After(patience):
		t.Fatal("no delivery in time")
	}
	panic("unreachable")
}

func nothing(t *testing.T, deliveries <-chan amqp.Delivery) {
	t.Helper()
	select {
	case delivery, open := <-deliveries:
		if open {
			t.Fatalf("%q arrived", delivery.Body)
		}
	case <-time.After(silence):
	}
}

// The bodies of the next deliveries, none of them acknowledged.
func bodies(t *testing.T, deliveries <-chan amqp.Delivery, count int) string {
	t.Helper()
	var found []string
	for len(found) < count {
		found = append(found, string(next(t, deliveries).Body))
	}
	return strings.Join(found, " ")
}

// Everything ready; what was delivered before has a star.
func drain(t *testing.T, channel *amqp.Channel, queue string) string {
	t.Helper()
	var found []string
	for {
		delivery, ok, err := channel.Get(queue, true)
		check(t, err)
		if !ok {
			return strings.Join(found, " ")
		}
		body := string(delivery.Body)
		if delivery.Redelivered {
			body += "*"
		}
		found = append(found, body)
	}
}

func take(t *testing.T, channel *amqp.Channel, queue string, count int) []amqp.Delivery {
	t.Helper()
	var found []amqp.Delivery
	for len(found) < count {
		delivery, ok, err := channel.Get(queue, false)
		check(t, err)
		equal(t, ok, true)
		found = append(found, delivery)
	}
	return found
}

func refused(t *testing.T, err error, code int, text string) {
	t.Helper()
	var refusal *amqp.Error
	if !errors.As(err, &refusal) {
		t.Fatalf("refused without a code: %v", err)
	}
	equal(t, refusal.Code, code)
	equal(t, refusal.Reason, text)
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not happen in time")
		}
	}
}

// A TCP proxy that a test can cut.
type proxy struct {
	listener net.Listener
	target   string
	mutex    sync.Mutex
	open     []net.Conn
}

func newProxy(t *testing.T) (*proxy, string) {
	t.Helper()
	address := must[*url.URL](t)(url.Parse(brokerURL()))
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	proxy := &proxy{listener: listener, target: address.Host}
	go proxy.accept()
	t.Cleanup(func() { listener.Close(); proxy.cut() })
	return proxy, strings.Replace(brokerURL(), address.Host, listener.Addr().String(), 1)
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		p.mutex.Lock()
		p.open = append(p.open, near, far)
		p.mutex.Unlock()
		go func() { io.Copy(near, far); near.Close() }()
		go func() { io.Copy(far, near); far.Close() }()
	}
}

func (p *proxy) cut() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, connection := range p.open {
		connection.Close()
	}
	p.open = nil
}
