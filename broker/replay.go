package broker

import (
	"context"
	"slices"

	"github.com/tidewire/tidewire/codec"
)

// owed is a part of a topic that a subscription has yet to get: the messages with
// offsets above from, up to and including to.
type owed struct {
	topic    *topic
	from, to uint64
	// reason is why they are owed, and what a gap says of those that are gone.
	reason codec.GapReason
	// Up to snapshot only last values are meant; what is between them is withheld.
	snapshot uint64
	// Up to replay the messages are older than the subscription.
	replay uint64
	// fresh: the client takes all of this epoch for new, and has a gap already.
	fresh bool
	// unsure: how many messages are missing is not known.
	unsure bool
}

// reader reads a page of what is owed from the topic's log. It holds no lock.
type reader struct {
	owed
	class  codec.Class // in force
	filter codec.Filter
	own    codec.ID // whose messages are withheld; zero: nobody's
	air    bool     // lossy messages travel by datagram
	now    func() uint64

	entries []entry // what was read
	at      uint64  // how far
	bytes   int     // of the frames in entries
}

const (
	// pageRecords and pageBytes bound what is read at once.
	pageRecords = 256
	pageBytes   = 64 << 10
)

// read reads the next page, and returns up to which offset it goes.
func (p *reader) read(ctx context.Context) (through uint64, err error) {
	p.at = p.from
	switch {
	case p.from < p.snapshot:
		err = p.lastValues(ctx)
	case p.class == codec.ClassReliable:
		err = p.all(ctx)
	default:
		err = p.newest(ctx)
	}
	return p.at, err
}

// lastValues reads a snapshot.
func (p *reader) lastValues(ctx context.Context) error {
	end := min(p.to, p.snapshot)
	values, err := p.topic.log.Retained(ctx, p.from, end, pageRecords, pageBytes)
	if err != nil {
		return err
	}
	for i := range values {
		p.skip(values[i].Offset - 1)
		p.take(&values[i])
	}
	if len(values) == 0 {
		p.skip(end)
	}
	return nil
}

// all reads messages as they were published. Where they are gone, the last values
// that are left are given between the gaps.
func (p *reader) all(ctx context.Context) error {
	log := p.topic.log
	records, base, err := log.Read(ctx, p.from, p.to, pageRecords, pageBytes)
	if err != nil {
		return err
	}
	if base > p.from {
		values, err := log.Retained(ctx, p.from, min(base, p.to), pageRecords, pageBytes)
		if err != nil {
			return err
		}
		for i := range values {
			p.gone(values[i].Offset - 1)
			p.take(&values[i])
		}
		if len(values) > 0 {
			return nil // there may be more of them
		}
		p.gone(min(base, p.to))
	}
	for i := range records {
		r := &records[i]
		p.lossy(r.Offset - 1)
		p.take(r)
	}
	if n := len(records); n == 0 || records[n-1].Offset == p.to {
		p.air = false // it was not by datagram that the last one came
		p.lossy(p.to)
	}
	return nil
}

// newest reads the newest message of each key, the oldest of them first: as many as
// have room in a page.
func (p *reader) newest(ctx context.Context) error {
	log := p.topic.log
	seen := make(map[string]struct{})
	var picked []Record
	pick := func(records []Record) {
		for i := range records {
			r := &records[i]
			if _, older := seen[r.Key]; older || r.Offset <= p.from || p.withholds(r) {
				continue
			}
			seen[r.Key] = struct{}{}
			picked = append(picked, *r) // if it has expired, a gap tells so
		}
	}
	var base uint64
	for before := p.to + 1; before > p.from+1; {
		records, b, err := log.ReadBack(ctx, before, pageRecords, pageBytes)
		if err != nil {
			return err
		}
		base = b
		if len(records) == 0 {
			break
		}
		pick(records)
		before = records[len(records)-1].Offset
	}
	for after := p.from; after < base; {
		values, err := log.Retained(ctx, after, min(base, p.to), pageRecords, pageBytes)
		if err != nil {
			return err
		}
		if len(values) == 0 {
			break
		}
		pick(values)
		after = values[len(values)-1].Offset
	}
	slices.SortFunc(picked, func(a, b Record) int {
		if a.Offset < b.Offset {
			return -1
		}
		return 1
	})
	for i := range picked {
		r := &picked[i]
		if i > 0 && p.bytes+len(r.Payload.Data) > pageBytes {
			return nil
		}
		p.superseded(r.Offset-1, base)
		p.take(r)
	}
	p.superseded(p.to, base)
	return nil
}

// take appends a message, unless it has expired or is withheld.
func (p *reader) take(r *Record) {
	switch {
	case p.withholds(r):
		// SKIP covers all that has not come, lossy messages before it too: what of
		// them went by datagram and has come the client knows.
		p.hole(r.Offset-1, codec.GapLost, unknownCount)
		p.skip(r.Offset)
	case p.expired(r):
		p.hole(r.Offset-1, codec.GapLost, unknownCount)
		p.hole(r.Offset, codec.GapExpired, 1)
	default:
		frame := p.topic.encode(r)
		p.entries = append(p.entries, entry{
			kind: entryMessage, frame: frame, topic: p.topic, from: r.Offset - 1, offset: r.Offset,
			extra: extraOf(r.Key, r.Expires),
		})
		p.bytes += len(frame)
		p.at = r.Offset
	}
}

func (p *reader) expired(r *Record) bool { return r.Expires != 0 && r.Expires <= p.now() }

func (p *reader) withholds(r *Record) bool {
	return !p.own.IsZero() && r.Publisher == p.own || !p.filter.Match(r.Headers)
}

// gone tells that what is above the last entry, up to and including to, is not kept
// any more.
func (p *reader) gone(to uint64) {
	if older := min(to, p.replay); p.fresh {
		p.skip(older) // the gap that the client has tells of it
	} else if p.reason != codec.GapHistory {
		p.hole(older, codec.GapHistory, p.count(older))
	}
	p.hole(to, p.reason, p.count(to))
}

// lossy tells what the history leaves out: lossy messages.
func (p *reader) lossy(to uint64) {
	if p.at < p.replay {
		p.hole(min(to, p.replay), codec.GapConflated, p.count(min(to, p.replay)))
	}
	switch {
	case p.air:
	case p.reason == codec.GapHistory: // it was not lost for room
		p.hole(to, codec.GapConflated, p.count(to))
	default:
		p.hole(to, p.reason, p.count(to))
	}
}

// superseded tells what has a newer message of its key, or, up to base, is gone.
func (p *reader) superseded(to, base uint64) {
	if p.at < base {
		p.gone(min(to, base))
	}
	p.hole(to, codec.GapConflated, p.count(to))
}

// count is how many messages a hole has. What is withheld cannot be told from the
// rest.
func (p *reader) count(to uint64) uint32 {
	if p.filter != nil || !p.own.IsZero() || p.unsure {
		return unknownCount
	}
	if to < p.at {
		return 0
	}
	return countOf(to - p.at)
}

// hole appends a gap up to and including to.
func (p *reader) hole(to uint64, reason codec.GapReason, count uint32) {
	if to <= p.at {
		return
	}
	if slices.ContainsFunc(p.topic.lossesBetween(p.at, to+1), func(l busLoss) bool { return l.from < l.to }) {
		reason, count = codec.GapBus, unknownCount
	}
	p.entries = append(p.entries, entry{kind: entryGap, topic: p.topic, from: p.at, offset: to, reason: reason, count: count})
	p.at = to
}

// skip appends a skip up to and including to.
func (p *reader) skip(to uint64) {
	if to <= p.at {
		return
	}
	p.entries = append(p.entries, entry{kind: entrySkip, topic: p.topic, from: p.at, offset: to})
	p.at = to
}
