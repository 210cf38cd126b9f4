package client

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidewire/tidewire/codec"
)

// presencePrefix is before the name of a topic whose presence is meant (PROTOCOL
// §7.8).
const presencePrefix = "$presence."

// ErrTruncated is returned together with what there is room for.
var ErrTruncated = errors.New("client: there is more than one answer holds")

// Member is a client that is present in a topic.
type Member struct {
	Client uuid.UUID
	State  codec.Payload
	Since  time.Time // when it entered, or changed its state last
}

// Decode decodes the member's state into the value that v points to.
func (m Member) Decode(v any) error { return m.State.Decode(v) }

// Presence returns who is present in a topic now. A topic that is configured to
// count only is an error with CodeNotOffered: see PresenceCount.
func (c *Client) Presence(ctx context.Context, topic string) ([]Member, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	sub, err := c.Subscribe(ctx, topic, &SubscribeOptions{presence: true, marks: true})
	if err != nil {
		return nil, err
	}
	defer sub.closeWithin(ctx)
	members := make(map[uuid.UUID]Member)
	var order []uuid.UUID
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			return nil, err
		}
		if m.mark {
			break
		}
		if m.Gap != nil {
			if m.Gap.To == nil { // another epoch: everyone who is there comes anew
				clear(members)
				order = nil
			}
			continue // what follows is newer
		}
		e, ok := presenceEvent(m)
		switch {
		case !ok:
		case e.Kind == Counted:
			return nil, codec.Errorf(codec.CodeNotOffered, "the presence of %s is counted only: use PresenceCount", topic)
		case e.Kind == Left:
			delete(members, e.Member.Client)
		default:
			if _, known := members[e.Member.Client]; !known {
				order = append(order, e.Member.Client)
			}
			members[e.Member.Client] = e.Member
		}
	}
	list := make([]Member, 0, len(members))
	for _, id := range order {
		if m, ok := members[id]; ok {
			list = append(list, m)
			delete(members, id)
		}
	}
	return list, nil
}

// PresenceCount returns how many sessions are present in each topic of a pattern.
// Of more than 1,024 topics it returns some, and ErrTruncated.
func (c *Client) PresenceCount(ctx context.Context, pattern string) (map[string]int, error) {
	if err := checkPattern(pattern); err != nil {
		return nil, err
	}
	conn, err := c.reach(ctx)
	if err != nil {
		return nil, err
	}
	frame, err := conn.do(ctx, func(number uint64) []byte {
		return codec.AppendCount(nil, codec.Count{Number: number, Pattern: pattern})
	})
	if err != nil {
		return nil, err
	}
	answer, ok := frame.(codec.Counts)
	if !ok {
		return nil, codec.Errorf(codec.CodeProtocolViolation, "COUNT was not answered by COUNTS")
	}
	counts := make(map[string]int, len(answer.Topics))
	for _, t := range answer.Topics {
		counts[t.Topic] = int(t.Count)
	}
	if answer.More {
		return counts, ErrTruncated
	}
	return counts, nil
}

// PresenceKind is what a PresenceEvent tells.
type PresenceKind int

// The kinds of events.
const (
	Joined      PresenceKind = iota // a member that was not there, or not known
	Updated                         // a member has another state
	Left                            // a member is gone
	Counted                         // the number of sessions, where the topic is counted only
	PresenceGap                     // events may be missing: see Gap; what differs follows
)

// String returns the kind's name.
func (k PresenceKind) String() string {
	names := [...]string{"joined", "updated", "left", "counted", "gap"}
	return names[k]
}

// PresenceEvent is a change of who is present.
type PresenceEvent struct {
	Kind   PresenceKind
	Topic  string // "" on a gap in every topic of the pattern
	Member Member // of Joined and Updated; of Left as it was last
	Count  int    // of Counted
	Gap    *Gap   // of PresenceGap
}

// presenceEvent makes an event of an item of a presence subscription, without
// knowing who was there before; ok is false if it is none.
func presenceEvent(m Message) (e PresenceEvent, ok bool) {
	e.Topic = strings.TrimPrefix(m.Topic, presencePrefix)
	if m.Gap != nil {
		gap := *m.Gap
		gap.Topic = e.Topic
		e.Kind, e.Gap = PresenceGap, &gap
		return e, true
	}
	if m.Key == "" {
		e.Kind = Counted
		if len(m.Payload.Data) == 0 {
			return e, true // nobody: the last value was cleared
		}
		err := m.Decode(&e.Count)
		return e, err == nil
	}
	id, err := uuid.Parse(m.Key)
	if err != nil {
		return e, false
	}
	e.Member = Member{Client: id, State: m.Payload, Since: m.Time}
	if len(m.Payload.Data) == 0 && m.Payload.Encoding == codec.EncodingBytes {
		e.Kind = Left
	}
	return e, true
}

// checkTopic reports a topic that clients cannot use.
func checkTopic(topic string) error {
	if err := codec.CheckTopic(topic); err != nil {
		return err
	}
	return checkNotSystem(topic)
}

// checkPattern reports a pattern that clients cannot use.
func checkPattern(pattern string) error {
	if err := codec.CheckPattern(pattern); err != nil {
		return err
	}
	return checkNotSystem(pattern)
}

func checkNotSystem(s string) error {
	if codec.IsSystem(s) {
		return codec.Errorf(codec.CodeSystemTopic, "topics that begin with $ or _ belong to the system")
	}
	return nil
}
