// A publisher or a consumer of the crash test; `tests/clients/python/crash/evidence.py` says what
// they write down, and `cargo xtask crash --kill` runs them.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	publisher = "g"
	window    = 500
	perSecond = 2000
	prefetch  = 100
	ackEvery  = 8
	// Long enough for a broker that has something to deliver.
	quiet = 700 * time.Millisecond
	// So often it is asked before a message that is not delivered counts as such: a broker on a
	// busy machine may have it on its way.
	looks = 20
	// Messages are left to pile up for at most this long after a start.
	late = 400 * time.Millisecond
)

var routes = [][2]string{
	{"crash.fan", ""}, {"crash.direct", "a"}, {"", "crash-b"}, {"crash.entry", "x.t"},
}

var stopping atomic.Bool

// The file of this client.
type evidence struct {
	mutex sync.Mutex
	file  *bufio.Writer
}

func (e *evidence) line(format string, values ...any) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	fmt.Fprintf(e.file, format+"\n", values...)
}

// Notes a lost connection. That the broker closed it with a reason breaks a promise.
func (e *evidence) told(err error) {
	var refusal *amqp.Error
	text := strings.ReplaceAll(fmt.Sprint(err), "\n", " ")
	if errors.As(err, &refusal) && refusal.Server {
		e.line("V closed by the broker: %s", text)
	} else {
		e.line("X %s", text)
	}
}

func now() int64 { return time.Now().UnixMilli() }

func isTransient(number uint64) bool { return number%7 == 3 }

func body(name string, number uint64) []byte {
	size := 40 + int(number*7919%1500)
	if number%100 == 0 {
		size = 20_000
	}
	if number%1000 == 500 {
		size = 300_000
	}
	head := fmt.Sprintf("%s %d ", name, number)
	return append([]byte(head), bytes.Repeat([]byte{byte('a' + number%26)}, size-len(head))...)
}

func main() {
	url, path, queues := os.Args[1], os.Args[2], os.Args[3:]
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	e := &evidence{file: bufio.NewWriterSize(file, 1<<16)}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() { <-signals; stopping.Store(true) }()
	session := func() error { return publish(url, e) }
	if len(queues) > 0 {
		session = func() error { return consume(url, e, queues) }
	}
	for !stopping.Load() {
		if err := session(); err != nil {
			e.told(err)
		}
		e.mutex.Lock()
		e.file.Flush()
		e.mutex.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
	file.Close()
}

func dial(url string) (*amqp.Connection, error) {
	return amqp.DialConfig(url, amqp.Config{Dial: amqp.DefaultDial(3 * time.Second)})
}

// The number of the next message, over all connections.
var next uint64

// Publishes until the connection is lost, or until told to stop and everything is confirmed.
func publish(url string, e *evidence) error {
	begun := now()
	connection, err := dial(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	lost := connection.NotifyClose(make(chan *amqp.Error, 1))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, window))
	returns := channel.NotifyReturn(make(chan amqp.Return, window))
	if err := channel.Confirm(false); err != nil {
		return err
	}
	begin, done := next, uint64(0)
	e.line("O %d %d", begun, next)
	start, tick := time.Now(), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-closed:
			return orGone(err)
		case err := <-lost:
			return orGone(err)
		case returned, open := <-returns:
			if !open {
				return first(closed, lost)
			}
			e.line("V returned %.20q: %d %s", returned.Body, returned.ReplyCode, returned.ReplyText)
		case confirm, open := <-confirms:
			if !open {
				return first(closed, lost)
			}
			word, number := "N", begin+confirm.DeliveryTag-1
			if confirm.Ack {
				word = "C"
			}
			e.line("%s %d %d", word, number, number)
			done++
		case <-tick.C:
			if stopping.Load() {
				if done == next-begin {
					return nil
				}
				continue
			}
			due := uint64(time.Since(start).Seconds()*perSecond) + begin
			for next < due && next-begin-done < window {
				if err := send(channel, next); err != nil {
					return err
				}
				next++
			}
		}
	}
}

func send(channel *amqp.Channel, number uint64) error {
	route := routes[number%uint64(len(routes))]
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body(publisher, number)}
	if isTransient(number) {
		message.DeliveryMode = amqp.Transient
	}
	return channel.Publish(route[0], route[1], true, false, message)
}

// Why a channel has ended, or else its connection.
func first(closed, lost chan *amqp.Error) error {
	select {
	case err := <-closed:
		return orGone(err)
	case err := <-lost:
		return orGone(err)
	}
}

func orGone(err *amqp.Error) error {
	if err == nil {
		return errors.New("gone")
	}
	return err
}

// Consumes until the connection is lost, or until told to stop and the queues are empty.
func consume(url string, e *evidence, queues []string) error {
	begun := now()
	connection, err := dial(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	lost := connection.NotifyClose(make(chan *amqp.Error, 1))
	e.line("O %d 0", begun)
	if !stopping.Load() {
		time.Sleep(time.Duration(rand.Int63n(int64(late))))
	}
	var last atomic.Int64
	last.Store(now())
	failed := make(chan error, len(queues))
	for _, queue := range queues {
		channel, err := connection.Channel()
		if err != nil {
			return err
		}
		if err := channel.Qos(prefetch, 0, false); err != nil {
			return err
		}
		closed := channel.NotifyClose(make(chan *amqp.Error, 1))
		deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		go func(queue string) { failed <- take(e, queue, deliveries, closed, &last) }(queue)
	}
	counter, err := connection.Channel()
	if err != nil {
		return err
	}
	for looked := 0; ; {
		select {
		case err := <-lost:
			return orGone(err)
		case err := <-failed:
			return err
		case <-time.After(100 * time.Millisecond):
			if !stopping.Load() || now()-last.Load() <= quiet.Milliseconds() {
				continue
			}
			undelivered, err := count(counter, queues)
			if err != nil || len(undelivered) == 0 {
				return err
			}
			if looked++; looked == looks {
				e.line("V ready for a consumer and not delivered: %s", undelivered)
				return nil
			}
			time.Sleep(quiet)
		}
	}
}

type delivered struct {
	publisher string
	number    uint64
}

// Takes deliveries and acknowledges several at once.
func take(
	e *evidence, queue string, deliveries <-chan amqp.Delivery, closed chan *amqp.Error,
	last *atomic.Int64,
) error {
	var held []delivered
	var newest amqp.Delivery
	settle := func() {
		if len(held) > 0 && newest.Ack(true) == nil {
			for _, one := range held {
				e.line("A %s %s %d %d", queue, one.publisher, one.number, now())
			}
		}
		held = held[:0]
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case delivery, open := <-deliveries:
			if !open {
				return orGone(<-closed)
			}
			last.Store(now())
			words := strings.SplitN(string(delivery.Body[:min(30, len(delivery.Body))]), " ", 3)
			number, _ := strconv.ParseUint(words[1], 10, 64)
			if !bytes.Equal(delivery.Body, body(words[0], number)) {
				e.line("V %s: %s %d arrived damaged", queue, words[0], number)
			}
			again := 0
			if delivery.Redelivered {
				again = 1
			}
			e.line("D %s %s %d %d", queue, words[0], number, again)
			newest, held = delivery, append(held, delivered{words[0], number})
			if len(held) >= ackEvery {
				settle()
			}
		case <-tick.C:
			settle()
		}
	}
}

// The queues that have ready messages, and how many.
func count(channel *amqp.Channel, queues []string) ([]string, error) {
	var found []string
	for _, queue := range queues {
		state, err := channel.QueueDeclarePassive(queue, false, false, false, false, nil)
		if err != nil {
			return nil, err
		}
		if state.Messages > 0 {
			found = append(found, fmt.Sprintf("%d in %s", state.Messages, queue))
		}
	}
	return found, nil
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
