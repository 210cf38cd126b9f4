package stress

import (
	"fmt"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// publishedLast lets a message through every filter.
var publishedLast = &broker.PublishOptions{Headers: map[string]string{"kind": wantedKind}}

// checkBooks looks, when every client has left, for what the broker has not given back: what its
// Stats tell, what its router still knows, and topics that are still pinned.
func (w *world) checkBooks() {
	w.eventually("the books", w.open)
	w.checkRouter()
	w.checkPins()
	w.eventually("the books at the end", w.open)
}

// open returns what is not back at zero; "" if nothing is.
func (w *world) open() string {
	s := w.broker.Stats()
	if s.Sessions+s.Subscriptions+s.Publications+s.QueuedBytes+s.Presences+s.Requests+s.Groups+s.SlowSubscriptions == 0 {
		return ""
	}
	return fmt.Sprintf("%d sessions, %d subscriptions, %d publications, %d bytes queued, %d presences, %d requests, %d groups, %d slow subscriptions",
		s.Sessions, s.Subscriptions, s.Publications, s.QueuedBytes, s.Presences, s.Requests, s.Groups, s.SlowSubscriptions)
}

// checkRouter asks in each topic whether somebody is subscribed.
func (w *world) checkRouter() {
	for topic := range w.ledger.topics {
		_, err := w.broker.Request(w.t.Context(), topic, "anybody? ", &broker.RequestOptions{Timeout: time.Second})
		if !oneOf(err, codec.CodeNoResponders, codec.CodeOverloaded) {
			w.fault("the router still knows somebody for %s: %v", topic, err)
		}
	}
}

// checkPins takes all places for topics at once: those there were have to give way, and
// take with them what was kept of them.
func (w *world) checkPins() {
	p := w.join(client.Config{})
	defer func() { _ = p.Close() }()
	for i := range w.config.MaxTopics {
		w.eventually("a place for a topic", func() string {
			if _, err := p.Subscribe(w.t.Context(), fmt.Sprint("new.", i), nil); err != nil {
				return fmt.Sprintf("the one of number %d of %d: %v", i, w.config.MaxTopics, err)
			}
			return ""
		})
	}
	if n := w.broker.Stats().HistoryBytes; n != 0 {
		w.fault("%d bytes are kept of topics that are gone", n)
	}
}
