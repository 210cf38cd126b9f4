package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tidewire/tidewire/codec"
)

// authenticate asks the authenticator; the error is coded.
func (s *session) authenticate(token string) (Principal, error) {
	ctx, cancel := context.WithTimeout(s.ctx, authTimeout)
	defer cancel()
	p, err := s.broker.config.Authenticator.Authenticate(ctx, Credentials{Token: token, RemoteAddr: s.conn.RemoteAddr()})
	if err == nil {
		if e := p.Expires(); !e.IsZero() && !time.Now().Before(e) {
			err = codec.Errorf(codec.CodeTokenExpired, "the token has expired")
		}
	}
	if err != nil {
		if _, coded := errors.AsType[*codec.Error](err); !coded {
			s.broker.log.Warn("authentication failed", slog.String("remote", s.conn.RemoteAddr().String()), slog.Any("error", err))
			err = codec.Errorf(codec.CodeUnauthorized, "the token was not accepted")
		}
		return nil, err
	}
	return p, nil
}

// expires returns when a principal's permission ends, on the broker's clock.
func (s *session) expires(p Principal) codec.Optional {
	e := p.Expires()
	if e.IsZero() {
		return codec.Optional{}
	}
	return codec.Some(uint64(max(0, e.Sub(s.broker.base)) / time.Millisecond))
}

// setPrincipal puts p in force, and watches its expiry.
func (s *session) setPrincipal(p Principal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.principal = p
	s.tenure++
	tenure := s.tenure
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	if e := p.Expires(); !e.IsZero() && !s.stopped {
		s.expiry = time.AfterFunc(time.Until(e), func() { s.expired(tenure) })
	}
}

// expired tells the client that its token has expired, and ends the session when
// the grace is over (PROTOCOL §5.4).
func (s *session) expired(tenure uint64) {
	grace := s.broker.config.TokenGrace
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tenure != tenure || s.stopped {
		return // AUTH came in time
	}
	s.sendControlLocked(codec.AppendNotice(nil, codec.Notice{
		Code: codec.CodeTokenExpired, Reason: "send AUTH with a new token",
		Deadline: codec.Some(s.broker.now() + uint64(grace/time.Millisecond)),
	}))
	s.expiry = time.AfterFunc(grace, func() {
		s.mu.Lock()
		old := s.tenure == tenure
		s.mu.Unlock()
		if old {
			s.fail(codec.Errorf(codec.CodeTokenExpired, "the token has expired: connect with a new one"))
		}
	})
}

// permitSubscribe reports why the session may not subscribe to a pattern.
func (s *session) permitSubscribe(pattern string) error {
	if codec.IsSystem(pattern) {
		return codec.Errorf(codec.CodeSystemTopic, "topics that begin with $ or _ belong to the system")
	}
	access := s.broker.configs.subscribeAccess(pattern)
	if access == AccessClosed {
		return codec.Errorf(codec.CodeSubscribeDenied, "clients do not subscribe to %q: it matches topics that are closed to them", pattern)
	}
	if access == AccessByToken && !s.who().CanSubscribe(pattern) {
		return codec.Errorf(codec.CodeSubscribeDenied, "the token does not permit to subscribe to %q", pattern)
	}
	return nil
}

// permitPublish reports why the session may not publish to a topic.
func (s *session) permitPublish(topic string) error {
	if codec.IsSystem(topic) {
		return codec.Errorf(codec.CodeSystemTopic, "topics that begin with $ or _ belong to the system")
	}
	access := s.broker.topics.config(topic).Publish
	if access == AccessClosed {
		return codec.Errorf(codec.CodePublishDenied, "clients do not publish to %q", topic)
	}
	if access == AccessByToken && !s.who().CanPublish(topic) {
		return codec.Errorf(codec.CodePublishDenied, "the token does not permit to publish to %q", topic)
	}
	return nil
}

// who returns the principal in force.
func (s *session) who() Principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.principal
}

// startAuth has AUTH done by a goroutine of its own, one at a time: while the
// authenticator thinks, the session goes on.
func (s *session) startAuth(a codec.Auth) {
	s.mu.Lock()
	for s.authenticating && s.ctx.Err() == nil {
		s.changed.Wait()
	}
	s.authenticating = true
	s.mu.Unlock()
	s.wg.Go(func() {
		s.reauthenticate(a)
		s.mu.Lock()
		s.authenticating = false
		s.changed.Broadcast()
		s.mu.Unlock()
	})
}

// reauthenticate replaces the token in place (PROTOCOL §5.3).
func (s *session) reauthenticate(a codec.Auth) {
	p, err := s.authenticate(a.Token)
	if err == nil && p.ID() != s.who().ID() {
		err = codec.Errorf(codec.CodeUnauthorized, "the token is of another principal")
	}
	if err != nil {
		s.sendControl(appendNack(nil, a.Number, err, codec.Optional{}))
		return
	}
	s.setPrincipal(p)
	s.sendControl(codec.AppendAuthenticated(nil, codec.Authenticated{Number: a.Number, Expires: s.expires(p)}))

	s.recheck("the new token does not permit it")
}

// recheck ends what the principal in force does not permit: at once, what is queued
// is discarded. What begins meanwhile asks again when it can be seen here.
func (s *session) recheck(reason string) {
	s.mu.Lock()
	subs := make([]*subscription, 0, len(s.subs))
	for _, sub := range s.subs {
		subs = append(subs, sub)
	}
	pubs := make([]*publication, 0, len(s.pubs))
	for _, pub := range s.pubs {
		pubs = append(pubs, pub)
	}
	s.mu.Unlock()
	end := codec.End{Code: codec.CodePermissionRevoked, Reason: reason}
	for _, sub := range subs {
		if s.permitSubscribe(sub.asked()) != nil {
			s.revoke(sub, end)
		}
	}
	for _, pub := range pubs {
		if s.permitPublish(pub.topic.name) != nil {
			pub.end(end)
		}
	}
	for _, topic := range s.broker.presences.of(s) {
		if s.permitSubscribe(topic) != nil {
			s.broker.presences.leave(s, topic, nil)
		}
	}
}
