// Returns, refusals, transactions, headers, alternates and bound exchanges.
package clients

import (
	"context"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func confirmed(t *testing.T, channel *amqp.Channel, exchange, key string, mandatory bool) bool {
	t.Helper()
	message := amqp.Publishing{Body: []byte("x")}
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(
		context.Background(), exchange, key, mandatory, false, message)
	check(t, err)
	return confirmation.Wait()
}

func TestReturnComesBeforeTheAck(t *testing.T) {
	channel := open(t)
	events := make(chan string, 2)
	returns := channel.NotifyReturn(make(chan amqp.Return))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation))
	check(t, channel.Confirm(false))
	go func() {
		for {
			select {
			case returned := <-returns:
				events <- returned.ReplyText
			case confirmation := <-confirms:
				if confirmation.Ack {
					events <- "ack"
				}
				return
			}
		}
	}()
	message := amqp.Publishing{Body: []byte("x")}
	check(t, channel.Publish("", "nobody-is-here", true, false, message))
	equal(t, <-events, "NO_ROUTE")
	equal(t, <-events, "ack")
}

func TestFullQueueRefusesWithNack(t *testing.T) {
	channel := open(t)
	arguments := amqp.Table{"x-max-length": int32(2), "x-overflow": "reject-publish"}
	queue := declare(t, channel, arguments)
	check(t, channel.Confirm(false))
	for _, want := range []bool{true, true, false, false} {
		equal(t, confirmed(t, channel, "", queue, false), want)
	}
	take(t, channel, queue, 1)
	equal(t, confirmed(t, channel, "", queue, false), true)
}

func TestDropHeadKeepsTheNewest(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, amqp.Table{"x-max-length": int32(3)})
	fill(t, channel, queue, 10)
	equal(t, drain(t, channel, queue), "7 8 9")
}

func TestTransactions(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	check(t, channel.Tx())
	publish(t, channel, "", queue, "forgotten")
	check(t, channel.TxRollback())
	publish(t, channel, "", queue, "kept")
	equal(t, ready(t, channel, queue), 0)
	check(t, channel.TxCommit())
	equal(t, drain(t, channel, queue), "kept")
}

func TestHeadersExchange(t *testing.T) {
	channel := open(t)
	matching := exchange(t, channel, "headers", nil)
	all, any := declare(t, channel, nil), declare(t, channel, nil)
	for queue, how := range map[string]string{all: "all", any: "any"} {
		arguments := amqp.Table{"x-match": how, "a": int32(1), "b": "two"}
		check(t, channel.QueueBind(queue, "", matching, false, arguments))
	}
	for body, headers := range map[string]amqp.Table{
		"both": {"a": int32(1), "b": "two"}, "none": {"a": "1"},
	} {
		message := amqp.Publishing{Headers: headers, Body: []byte(body)}
		check(t, channel.Publish(matching, "", false, false, message))
	}
	equal(t, drain(t, channel, all), "both")
	equal(t, drain(t, channel, any), "both")
}

func TestAlternateExchange(t *testing.T) {
	channel := open(t)
	last := exchange(t, channel, "fanout", nil)
	first := exchange(t, channel, "direct", amqp.Table{"alternate-exchange": last})
	lost := bound(t, channel, last, "")[0]
	check(t, channel.Confirm(false))
	equal(t, confirmed(t, channel, first, "unknown", true), true)
	equal(t, drain(t, channel, lost), "x")
}

func TestExchangeBoundToExchange(t *testing.T) {
	channel := open(t)
	source, middle := exchange(t, channel, "topic", nil), exchange(t, channel, "fanout", nil)
	check(t, channel.ExchangeBind(middle, "a.*", source, false, nil))
	queue := bound(t, channel, middle, "")[0]
	publish(t, channel, source, "a.b", "yes")
	publish(t, channel, source, "b", "no")
	check(t, channel.ExchangeUnbind(middle, "a.*", source, false, nil))
	equal(t, drain(t, channel, queue), "yes")
}
