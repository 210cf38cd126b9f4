package client

// SubscriptionStats tells what a subscription has dropped, since Subscribe and
// over all connections. Except for what came late, a gap told of each.
type SubscriptionStats struct {
	// Waiting is how many messages and gaps wait for the application now.
	Waiting int
	// Late counts messages that came when a newer one of their topic had been
	// handed out; the gap before that one told of them.
	Late uint64
	// Conflated counts lossy messages whose place a newer one of their topic took
	// before the application did.
	Conflated uint64
	// Overflow counts lossy messages, and those that a member of a group had from
	// connections before, that were dropped because too many waited for the
	// application.
	Overflow uint64
	// UnknownTopic counts messages on the stream whose topic was forgotten: the
	// subscription remembers a bounded number of topics.
	UnknownTopic uint64
}

// Stats returns the counters of this moment.
func (s *Subscription) Stats() SubscriptionStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Waiting = s.inbox.len()
	return stats
}

// Stats tells what a client has received and given to no subscription, or not sent,
// since Dial and over all connections.
type Stats struct {
	// UnknownTopic counts datagrams of topics that no subscription learned of in
	// time (PROTOCOL §8).
	UnknownTopic uint64
	// BadDatagrams counts datagrams that were no MESSAGE.
	BadDatagrams uint64
	// Unsent counts lossy messages that were published without a connection.
	Unsent uint64
}

// Stats returns the counters of this moment.
func (c *Client) Stats() Stats {
	return Stats{UnknownTopic: c.unknownTopic.Load(), BadDatagrams: c.badDatagrams.Load(), Unsent: c.unsent.Load()}
}
