package stress

import (
	"context"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/client"
	"github.com/tidewire/tidewire/codec"
)

// subscribing is how the subscriptions of a test are made.
type subscribing struct {
	patterns []string
	classes  []client.Class
}

// options draws the options that do not depend on where a subscription begins.
func (s subscribing) options(d dice) client.SubscribeOptions {
	opts := client.SubscribeOptions{
		Class: pick(d, s.classes), Priority: uint8(1 + d.IntN(7)), NoRetained: true, Credit: 1024 << d.IntN(6),
		NoEcho: d.oneIn(4),
	}
	if d.oneIn(4) {
		opts.Filter = client.Filter{client.Where("kind").In(wantedKind)}
	}
	return opts
}

// lasting makes a subscription that stays until the end, and changes its priority.
func (w *world) lasting(who *person, s subscribing) *follower {
	w.t.Helper()
	d := w.throw()
	opts := s.options(d)
	from := client.From{}
	if d.oneIn(3) {
		from, opts.NoRetained = client.FromBeginning(), false
	}
	p := pace{slow: pick(d, []int{0, 3, 20}), stall: pick(d, []int{0, 400})}
	opts.From = from
	f := w.follower(fmt.Sprintf("lasting class %d noecho %v filter %v %+v", opts.Class, opts.NoEcho, opts.Filter != nil, p), who, pick(d, s.patterns), opts)
	sub, err := f.subscribe(from)
	if err != nil {
		w.t.Fatal(err)
	}
	w.read(func(d dice) {
		if err := f.follow(w.watch, d, sub, p); err != nil {
			f.fault("%v", err)
		}
	})
	w.work(func(d dice) {
		for w.loading() {
			rest(w.load, d.upTo(20*time.Millisecond))
			if err := sub.SetPriority(uint8(1 + d.IntN(7))); err != nil {
				f.fault("SetPriority: %v", err)
			}
		}
	})
	return f
}

// passing makes a person's subscriptions come and go: some begin anew, some go on where
// the one before stood.
func (w *world) passing(who *person, s subscribing) {
	w.work(func(d dice) {
		for w.loading() {
			opts := s.options(d)
			from := client.From{}
			switch d.IntN(5) {
			case 0:
				from = client.FromLast(1 + d.IntN(50))
			case 1:
				opts.NoRetained = false
			case 2:
				from = client.FromTime(time.Now().Add(-50 * time.Millisecond))
			case 3:
				from = client.FromBeginning()
			}
			opts.From = from
			f := w.follower(fmt.Sprintf("passing class %d", opts.Class), who, pick(d, s.patterns), opts)
			for again := true; again && w.loading(); again = d.oneIn(2) {
				var ok bool
				if from, ok = w.pass(f, d, from); !ok {
					break
				}
			}
		}
	})
}

// pass follows for a moment, and returns where to go on; ok is false if that is not known.
func (w *world) pass(f *follower, d dice, from client.From) (next client.From, ok bool) {
	sub, err := f.subscribe(from)
	if err != nil {
		if !w.ledger.evicting || codec.CodeOf(err) != codec.CodeOverloaded {
			f.fault("subscribe: %v", err)
		}
		return next, false
	}
	ctx, cancel := context.WithTimeout(w.watch, d.upTo(60*time.Millisecond))
	defer cancel()
	if err := f.follow(ctx, d, sub, pace{slow: 30}); err != nil {
		f.fault("%v", err)
	}
	if codec.IsExact(f.pattern) {
		var pos client.Position
		pos, ok = sub.Position()
		next = client.FromPosition(pos)
	} else {
		topics, since := sub.Positions()
		next, ok = client.FromPositions(topics, since), len(topics) > 0
	}
	if err := sub.Close(); err != nil {
		f.fault("close: %v", err)
	}
	return next, ok && f.opts.Class <= client.Latest
}

// arrive publishes a last message to each topic, and waits until the followers have what
// there is.
func (w *world) arrive(topics []string, followers []*follower) {
	for _, topic := range topics {
		pos, err := w.broker.Publish(w.watch, topic, "last."+topic, publishedLast)
		if err != nil {
			w.fault("the last message of %s: %v", topic, err)
			continue
		}
		for _, f := range followers {
			if codec.Match(f.pattern, topic) && f.classOf(topic) <= client.Latest {
				w.eventually("at the end", func() string { return f.stands(topic, client.Position(pos)) })
			}
		}
	}
}
