package broker

import (
	"errors"
	"io"

	"github.com/tidewire/tidewire/codec"
)

// readControl reads the control stream until the session ends (PROTOCOL §5). A
// fault on it ends the session.
func (s *session) readControl(r *codec.Reader) {
	r.SetMaxFrame(s.broker.maxFrame() + codec.MaxFirstFrame)
	for {
		f, err := r.Next()
		if err != nil {
			err = endOfConn(err)
			switch {
			case errors.Is(err, io.EOF):
				err = errDone
			case s.conn.Context().Err() == nil:
				err = asCoded(err, codec.CodeProtocolViolation)
			}
			s.fail(err)
			return
		}
		if err := s.handleControl(f); err != nil {
			s.fail(err)
			return
		}
	}
}

// handleControl does what one control frame says. An error ends the session.
func (s *session) handleControl(f codec.Frame) error {
	switch f.Type {
	case codec.TypeFlow:
		w, err := codec.ParseFlow(f)
		if err != nil {
			return err
		}
		s.grant(w)
	case codec.TypePriority:
		w, err := codec.ParsePriority(f)
		if err != nil {
			return err
		}
		s.prioritize(w)
	case codec.TypePublish:
		m, err := codec.ParsePublish(f)
		if err != nil && codec.CodeOf(err) != codec.CodeInvalidOption {
			return err
		}
		s.publishOnce(m, err)
	case codec.TypeAuth:
		a, err := codec.ParseAuth(f)
		if err != nil {
			return err
		}
		s.startAuth(a)
	case codec.TypePresence:
		p, err := codec.ParsePresence(f)
		if err != nil {
			return err
		}
		s.present(p)
	case codec.TypeCount:
		c, err := codec.ParseCount(f)
		if err != nil {
			return err
		}
		s.countPresent(c)
	case codec.TypePing:
		p, err := codec.ParsePing(f)
		if err != nil {
			return err
		}
		s.pong(p)
	case codec.TypeRequest:
		return s.request(f)
	case codec.TypeReply:
		return s.reply(f)
	case codec.TypeCancel:
		c, err := codec.ParseCancel(f)
		if err != nil {
			return err
		}
		s.cancelRequest(c.Number)
	default:
		return unexpected(f.Type)
	}
	return nil
}

// publishOnce publishes a PUBLISH of the control stream and answers it; err is what
// is wrong with its options.
func (s *session) publishOnce(m codec.Publish, err error) {
	var pos Position
	if err == nil {
		err = codec.CheckTopic(m.Topic)
	}
	if err == nil {
		err = s.permitPublish(m.Topic)
	}
	if err == nil {
		pos, err = s.publishSingle(m)
	}
	if errors.Is(err, errSessionEnded) {
		return
	}
	if err != nil && !errors.Is(err, errDuplicate) {
		s.broker.counters.rejected.Add(1)
	}
	switch {
	case m.Sequence == 0:
	case err != nil:
		s.sendControl(appendNack(nil, m.Sequence, err, codec.Optional{}))
	default:
		s.sendControl(codec.AppendAck(nil, codec.Ack{Sequence: m.Sequence, Epoch: pos.Epoch, Offsets: []uint64{pos.Offset}}))
	}
}

// publishSingle publishes a message of the control stream, which may have a place in
// the client's count.
func (s *session) publishSingle(m codec.Publish) (Position, error) {
	b := s.broker
	if !m.Order.Set {
		config := b.topics.config(m.Topic)
		if config.mayForget(m.Age) {
			return Position{}, errForgotten
		}
		return s.publish(m.Topic, config, m, false)
	}
	tp, err := b.topics.get(m.Topic, true)
	if err != nil {
		return Position{}, err
	}
	defer tp.unpin()
	p := b.publishers.hold(tp, s.id)
	defer b.publishers.release(tp, p)
	return s.publishCounted(tp, p, m.Order.Value, m, false)
}

// appendNack appends the answer to what was refused with err.
func appendNack(b []byte, sequence uint64, err error, limit codec.Optional) []byte {
	e := endOf(err)
	return codec.AppendNack(b, codec.Nack{Sequence: sequence, Code: e.Code, Reason: e.Reason, Retry: e.Retry, Limit: limit})
}
