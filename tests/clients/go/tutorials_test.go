// RabbitMQ's seven tutorials, as amqp091-go's users write them.
package clients

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestTutorial1HelloWorld(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	publish(t, channel, "", queue, "Hello World!")
	delivery := next(t, consume(t, channel, queue))
	equal(t, string(delivery.Body), "Hello World!")
	equal(t, delivery.RoutingKey, queue)
	check(t, delivery.Ack(false))
}

func TestTutorial2WorkQueues(t *testing.T) {
	producer := open(t)
	queue := name("task")
	_, err := producer.QueueDeclare(queue, true, false, false, false, nil)
	check(t, err)
	for number := 0; number < 6; number++ {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(fmt.Sprint(number))}
		check(t, producer.Publish("", queue, false, false, message))
	}
	var workers []<-chan amqp.Delivery
	for index := 0; index < 2; index++ {
		worker := open(t)
		check(t, worker.Qos(1, 0, false))
		workers = append(workers, consume(t, worker, queue))
	}
	var done []string
	for round := 0; round < 3; round++ {
		// Neither acknowledges before both have work: acknowledgements of two connections race.
		var taken []amqp.Delivery
		for _, worker := range workers {
			taken = append(taken, next(t, worker))
		}
		for _, delivery := range taken {
			equal(t, delivery.DeliveryMode, amqp.Persistent)
			done = append(done, string(delivery.Body))
			check(t, delivery.Ack(false))
		}
	}
	sort.Strings(done)
	equal(t, strings.Join(done, " "), "0 1 2 3 4 5")
	_, err = producer.QueueDelete(queue, false, false, false)
	check(t, err)
}

func TestTutorial3PublishSubscribe(t *testing.T) {
	channel := open(t)
	logs := exchange(t, channel, "fanout", nil)
	queues := bound(t, channel, logs, "", "")
	publish(t, channel, logs, "", "info")
	for _, queue := range queues {
		equal(t, drain(t, channel, queue), "info")
	}
}

func TestTutorial4Routing(t *testing.T) {
	channel := open(t)
	logs := exchange(t, channel, "direct", nil)
	queues := bound(t, channel, logs, "error", "info")
	check(t, channel.QueueBind(queues[1], "error", logs, false, nil))
	for _, severity := range []string{"info", "error", "debug"} {
		publish(t, channel, logs, severity, severity)
	}
	equal(t, drain(t, channel, queues[0]), "error")
	equal(t, drain(t, channel, queues[1]), "info error")
}

func TestTutorial5Topics(t *testing.T) {
	channel := open(t)
	logs := exchange(t, channel, "topic", nil)
	queues := bound(t, channel, logs, "#", "kern.*", "*.critical", "kern.#")
	for _, key := range []string{"kern.critical", "kern", "app.critical", "kern.a.b"} {
		publish(t, channel, logs, key, key)
	}
	equal(t, drain(t, channel, queues[0]), "kern.critical kern app.critical kern.a.b")
	equal(t, drain(t, channel, queues[1]), "kern.critical")
	equal(t, drain(t, channel, queues[2]), "kern.critical app.critical")
	equal(t, drain(t, channel, queues[3]), "kern.critical kern kern.a.b")
}

func TestTutorial6RPC(t *testing.T) {
	client := open(t)
	replies := declare(t, client, nil)
	ask(t, client, replies, consume(t, client, replies))
}

func TestTutorial6RPCWithDirectReplyTo(t *testing.T) {
	const replies = "amq.rabbitmq.reply-to"
	client := open(t)
	answers, err := client.Consume(replies, "", true, false, false, false, nil)
	check(t, err)
	ask(t, client, replies, answers)
}

// Asks a server of its own a question.
func ask(t *testing.T, client *amqp.Channel, replies string, answers <-chan amqp.Delivery) {
	t.Helper()
	server := open(t)
	requests := declare(t, server, nil)
	served := consume(t, server, requests)
	question := amqp.Publishing{CorrelationId: "seven", ReplyTo: replies, Body: []byte("7")}
	check(t, client.Publish("", requests, false, false, question))
	request := next(t, served)
	answer := amqp.Publishing{CorrelationId: request.CorrelationId, Body: []byte("49")}
	check(t, server.Publish("", request.ReplyTo, false, false, answer))
	check(t, request.Ack(false))
	reply := next(t, answers)
	equal(t, reply.CorrelationId+" "+string(reply.Body), "seven 49")
}

func TestTutorial7PublisherConfirms(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	check(t, channel.Confirm(false))
	var pending []*amqp.DeferredConfirmation
	for number := 0; number < 500; number++ {
		message := amqp.Publishing{Body: []byte("x")}
		confirmation, err := channel.PublishWithDeferredConfirmWithContext(
			context.Background(), "", queue, false, false, message)
		check(t, err)
		pending = append(pending, confirmation)
	}
	for _, confirmation := range pending {
		equal(t, confirmation.Wait(), true)
	}
	equal(t, ready(t, channel, queue), 500)
}

// A new queue for each key, bound with it.
func bound(t *testing.T, channel *amqp.Channel, exchange string, keys ...string) []string {
	t.Helper()
	var queues []string
	for _, key := range keys {
		queue := declare(t, channel, nil)
		check(t, channel.QueueBind(queue, key, exchange, false, nil))
		queues = append(queues, queue)
	}
	return queues
}
