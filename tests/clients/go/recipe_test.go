// The client of docs/concepts/back-pressure.md, as it stands there, at a queue that is mostly full.
package clients

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const page = "../../../docs/concepts/back-pressure.md"
const length = 400
const aSecond = 100

// 6,400 take a minute.
func lineCount() int {
	if count, err := strconv.Atoi(os.Getenv("RECIPE_LINES")); err == nil {
		return count
	}
	return 800
}

func TestAClientThatWaitsAsToldIsHardlyEverRefused(t *testing.T) {
	text := string(must[[]byte](t)(os.ReadFile(page)))
	_, rest, _ := strings.Cut(text, "```go amqp\n")
	program, _, found := strings.Cut(rest, "```")
	equal(t, found, true)
	file := filepath.Join(t.TempDir(), "publish.go")
	check(t, os.WriteFile(file, []byte(program), 0o600))
	built := filepath.Join(t.TempDir(), "publish")
	output, err := exec.Command("go", "build", "-o", built, file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	channel := open(t)
	queue := name("recipe")
	limits := amqp.Table{
		"x-max-length": length, "x-overflow": "reject-publish", "x-nack-reason": "return",
	}
	must[amqp.Queue](t)(channel.QueueDeclare(queue, true, false, false, false, limits))
	lines := make([]string, lineCount())
	for number := range lines {
		lines[number] = fmt.Sprintf("order %d", number)
	}
	var said bytes.Buffer
	client := exec.Command(built)
	client.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	client.Stderr = &said
	client.Env = append(os.Environ(), "QUEUE="+queue)
	check(t, client.Start())
	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	// It is taken from once it is full.
	eventually(t, func() bool { return ready(t, channel, queue) == length })
	received := slowly(t, channel, queue, len(lines), ended)
	must[int](t)(channel.QueueDelete(queue, false, false, false))
	equal(t, strings.Join(received, "\n"), strings.Join(lines, "\n"))
	refused := strings.Count(said.String(), "refused")
	if refused == 0 || refused >= len(lines)/20 {
		t.Fatalf("%d of %d refused", refused, len(lines))
	}
}

// Takes so many messages at the usual rate, and the rest at once when their publisher has ended.
func slowly(
	t *testing.T, channel *amqp.Channel, queue string, count int, ended <-chan error,
) []string {
	t.Helper()
	var received []string
	over, begun := false, time.Now()
	for !over || len(received) < count {
		select {
		case err := <-ended:
			check(t, err)
			over = true
		default:
		}
		delivery, ok, err := channel.Get(queue, true)
		check(t, err)
		if ok {
			received = append(received, string(delivery.Body))
		} else if over {
			t.Fatalf("%d of %d received", len(received), count)
		}
		if !over && float64(len(received)) >= time.Since(begun).Seconds()*aSecond {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return received
}
