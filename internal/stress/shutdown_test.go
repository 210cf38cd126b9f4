package stress

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/client"
)

// Brokers are shut down, one after the other, in the middle of everything.
func TestShutdown(t *testing.T) {
	for end := time.Now().Add(*stressFor); time.Now().Before(end) && !t.Failed(); {
		shutDown(t)
	}
}

func shutDown(t *testing.T) {
	w := newWorld(t, new(inMemory), topicsOfEveryKind())
	topics := names(1, "plain", "tick")
	for range 4 {
		p := w.join(client.Config{})
		for _, opts := range []client.SubscribeOptions{{}, {Group: "g"}, {Class: client.Latest, Credit: 100}} {
			sub, err := p.Subscribe(w.watch, "s.>", &opts)
			if err != nil {
				t.Fatal(err)
			}
			w.read(func(d dice) {
				for range sub.Messages(w.watch) {
					if d.oneIn(50) {
						rest(w.watch, time.Millisecond)
					}
				}
			})
		}
		w.work(func(d dice) { w.doEverything(d, p, topics) })
	}
	d := w.throw()
	rest(context.Background(), 10*time.Millisecond+d.upTo(40*time.Millisecond))
	ctx, cancel := context.WithTimeout(context.Background(), d.upTo(100*time.Millisecond))
	_ = w.broker.Shutdown(ctx) // an error tells that ctx ended first
	cancel()
	if open := w.open(); open != "" {
		w.fault("after Shutdown: %s", open)
	}
	w.unload()
	w.off()
	for _, p := range w.persons {
		_ = p.Close()
	}
	w.workers.Wait()
	w.readers.Wait()
	w.stop()
}

// doEverything calls what there is to call; all of it may fail.
func (w *world) doEverything(d dice, p *person, topics []string) {
	for n := 0; w.loading(); n++ {
		topic := pick(d, topics)
		value := fmt.Sprint("x", n)
		_, _ = p.Publish(w.load, topic, value, &client.PublishOptions{Retain: d.oneIn(3)})
		_, _ = w.broker.Publish(w.load, topic, value, nil)
		_ = p.Enter(w.load, topic, value)
		if d.oneIn(5) {
			ctx, cancel := context.WithTimeout(w.load, 3*time.Millisecond)
			_, _ = p.Request(ctx, topic, value, nil)
			cancel()
		}
	}
}
