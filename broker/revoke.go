package broker

import (
	"maps"
	"slices"

	"github.com/tidewire/tidewire/codec"
)

// Recheck asks the principals with an ID again about everything that their sessions
// have: what they no longer permit ends at once, with CodePermissionRevoked, and what
// was queued of it is discarded; the rest does not notice. It is for a Principal
// whose answers change, and returns how many sessions it has asked for.
//
// It calls CanSubscribe for each subscription and presence, and CanPublish for each
// publication; what is published otherwise is asked for message by message anyway.
func (b *Broker) Recheck(principal string) int {
	sessions := b.sessionsOf(principal)
	for _, s := range sessions {
		s.recheck("the permission was revoked")
	}
	return len(sessions)
}

// Disconnect ends all sessions of the principals with an ID, with
// CodePermissionRevoked and the reason, of at most 512 bytes: a client does not come
// back by itself. That it cannot come back at all is the authenticator's to see to. It
// returns how many sessions that are, and does not wait for their end.
func (b *Broker) Disconnect(principal, reason string) int {
	b.disconnects.Add(1) // who is being welcomed is asked for again: see greet
	sessions := b.sessionsOf(principal)
	for _, s := range sessions {
		s.fail(&codec.Error{Code: codec.CodePermissionRevoked, Reason: reason})
	}
	return len(sessions)
}

// DisconnectClient is Disconnect for the session of one client. It reports whether
// there is one.
func (b *Broker) DisconnectClient(client codec.ID, reason string) bool {
	b.mu.Lock()
	s := b.byClient[client]
	b.mu.Unlock()
	if s == nil {
		return false
	}
	s.fail(&codec.Error{Code: codec.CodePermissionRevoked, Reason: reason})
	return true
}

// sessionsOf returns the sessions of the principals with an ID.
func (b *Broker) sessionsOf(principal string) []*session {
	return slices.DeleteFunc(b.welcomed(), func(s *session) bool { return s.who().ID() != principal })
}

// welcomed returns the sessions that were welcomed.
func (b *Broker) welcomed() []*session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.byClient))
}
