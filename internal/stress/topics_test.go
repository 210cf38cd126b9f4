package stress

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/client"
)

// names are the topics of some kinds, n of each.
func names(n int, kinds ...string) (topics []string) {
	for _, kind := range kinds {
		for i := range n {
			topics = append(topics, fmt.Sprintf("s.%s.%d", kind, i))
		}
	}
	return topics
}

// byStream are the classes whose messages all travel by stream where there are no
// datagrams, each as often as it is to be drawn.
var byStream = []client.Class{client.Reliable, client.Reliable, client.Latest}

// Publishers, subscriptions that last and that come and go, presences, on topics of every
// kind, and lines that are cut.
func TestTopics(t *testing.T) {
	withBounds(t, func(t *testing.T, config broker.Config) {
		w := newWorld(t, new(inMemory), config)
		topics := names(3, "plain", "tick", "none", "short", "keys")
		s := subscribing{append(topics, "s.>", "s.*.0", "s.tick.*", "s.keys.>"), byStream}
		var followers []*follower
		var rooms []*person
		for i := range 6 {
			p := w.join(client.Config{})
			rooms = append(rooms, p)
			for range 4 {
				followers = append(followers, w.lasting(p, s))
			}
			w.passing(p, s)
			w.present(p, i)
		}
		for i := range 4 {
			w.publishing(w.join(client.Config{}), fmt.Sprint("p", i), topics, 3)
		}
		w.publishing(rooms[0], "s0", topics, 1) // who subscribes too
		w.cutting(w.persons, 25*time.Millisecond)
		w.run()
		w.arrive(topics, followers)
		w.checkPresences(w.join(client.Config{}), len(rooms))
		w.end()
	})
}

// There are more topics than the broker holds: they are given up and begin anew all the
// time.
func TestEviction(t *testing.T) {
	config := topicsOfEveryKind()
	config.MaxTopics = 12
	w := newWorld(t, new(inMemory), config)
	w.ledger.evicting = true
	topics := names(12, "plain", "tick")
	for i := range 3 {
		p := w.join(client.Config{})
		w.lasting(p, subscribing{[]string{"s.>", "s.tick.*"}, byStream})
		for range 2 {
			w.passing(p, subscribing{topics, byStream})
		}
		w.publishing(w.join(client.Config{}), fmt.Sprint("p", i), topics[:4], 1)
	}
	for i := range 4 {
		w.work(func(d dice) {
			p := &publisher{world: w, name: fmt.Sprint("process.", i), topics: topics, padding: 60, dice: d}
			for w.loading() {
				p.fromProcess(pick(d, topics))
				if d.oneIn(8) {
					rest(w.load, time.Millisecond)
				}
			}
		})
	}
	w.run()
	w.end()
}

// Every class, over WebTransport: what may be lost travels by datagram.
func TestWebTransport(t *testing.T) {
	config := topicsOfEveryKind()
	config.MaxQueueBytes, config.MaxSessionBytes = 64<<10, 96<<10
	w := newWorld(t, new(loopback), config)
	w.datagrams = true
	topics := names(2, "plain", "tick", "none", "sequenced")
	s := subscribing{
		append(topics, "s.>", "s.*.0", "s.tick.*"),
		[]client.Class{client.Reliable, client.Reliable, client.Latest, client.Sequenced, client.Unreliable},
	}
	var followers []*follower
	for i := range 3 {
		p := w.join(client.Config{})
		for range 6 {
			followers = append(followers, w.lasting(p, s))
		}
		w.passing(p, s)
		w.publishing(p, fmt.Sprint("p", i), topics, 2)
	}
	w.cutting(w.persons, 300*time.Millisecond)
	w.run()
	w.arrive(topics, followers)
	w.end()
}
