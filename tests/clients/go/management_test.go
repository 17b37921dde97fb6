// Long lists of the HTTP API as Go's own client gets them, packed: the broker makes them in pieces.
package clients

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"testing"
)

// Several pieces: rows have more than 400 bytes each.
const rows = 300

func TestALongListComesWholeWhenItIsPacked(t *testing.T) {
	port := os.Getenv("API_PORT")
	if port == "" || port == "0" {
		t.Skip("the environment names no port of an HTTP API")
	}
	channel := open(t)
	stem := name("list")
	for number := 0; number < rows; number++ {
		queue := fmt.Sprintf("%s-%d", stem, number)
		_, err := channel.QueueDeclare(queue, false, false, true, false, nil)
		check(t, err)
	}
	address := fmt.Sprintf("http://127.0.0.1:%s/api/queues/%%2F", port)
	// It asks for gzip by itself, and unpacks.
	for _, plain := range []bool{false, true} {
		request := must[*http.Request](t)(http.NewRequest("GET", address, nil))
		request.SetBasicAuth("guest", "guest")
		transport := &http.Transport{DisableCompression: plain}
		response := must[*http.Response](t)(transport.RoundTrip(request))
		equal(t, response.StatusCode, http.StatusOK)
		equal(t, response.Uncompressed, !plain)
		var queues []map[string]any
		check(t, json.NewDecoder(response.Body).Decode(&queues))
		check(t, response.Body.Close())
		if len(queues) < rows {
			t.Fatalf("%d of %d", len(queues), rows)
		}
	}
}
