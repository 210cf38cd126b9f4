package broker

import (
	"github.com/tidewire/tidewire/codec"
)

// present does what PRESENCE says, and answers it (PROTOCOL §7.8).
func (s *session) present(f codec.Presence) {
	answer := func(pos Position, err error) {
		if err != nil {
			s.sendControl(appendNack(nil, f.Number, asCoded(err, codec.CodeBusUnavailable), codec.Optional{}))
			return
		}
		// Where nothing was ever published the position means nothing, but an ACK has one.
		s.sendControl(codec.AppendAck(nil, codec.Ack{Sequence: f.Number, Epoch: pos.Epoch, Offsets: []uint64{max(1, pos.Offset)}}))
	}
	if _, err := presenceTopic(f.Topic); err != nil {
		answer(Position{}, err)
		return
	}
	all := s.broker.presences
	if f.Leave {
		all.leave(s, f.Topic, answer)
		return
	}
	err := s.permitSubscribe(f.Topic)
	if err == nil {
		err = s.checkState(f.State)
	}
	if err == nil {
		err = s.allow()
	}
	if err == nil {
		err = all.enter(s, f.Topic, f.State, answer)
	}
	if err != nil {
		answer(Position{}, err)
		return
	}
	// What was revoked meanwhile is seen here, or by who revoked it.
	if s.permitSubscribe(f.Topic) != nil {
		all.leave(s, f.Topic, nil)
	}
}

// checkState reports what is wrong with the state of a presence.
func (s *session) checkState(state codec.Payload) error {
	limit := min(codec.MaxState, s.broker.config.Limits.Payload)
	switch n := uint64(len(state.Data)); {
	case n == 0:
		return codec.Errorf(codec.CodeInvalidOption, "the state of a presence is not empty")
	case n > limit:
		return codec.Errorf(codec.CodePayloadTooLarge, "a state of %d bytes; the limit is %d", n, limit)
	}
	return nil
}

// countPresent answers COUNT (PROTOCOL §7.8).
func (s *session) countPresent(f codec.Count) {
	err := codec.CheckPattern(f.Pattern)
	if err == nil {
		err = s.permitSubscribe(f.Pattern)
	}
	if err == nil && codec.IsExact(f.Pattern) && s.broker.configs.of(f.Pattern).Presence == PresenceOff {
		err = errPresenceOff
	}
	if err == nil {
		err = s.allow()
	}
	if err != nil {
		s.sendControl(appendNack(nil, f.Number, err, codec.Optional{}))
		return
	}
	s.awaitControlRoom()
	counts, more := s.broker.presences.count(f.Pattern)
	s.sendControl(codec.AppendCounts(nil, codec.Counts{Number: f.Number, Topics: counts, More: more}))
}
