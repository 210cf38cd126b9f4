package broker

// sink is the broker as its bus sees it.
type sink Broker

// Sequence implements Sink. The bus may bring what no client of this broker could
// have published.
func (s *sink) Sequence(m Message) (Position, error) {
	b := (*Broker)(s)
	if err := b.checkPayload(m.Payload); err != nil {
		b.counters.rejected.Add(1)
		return Position{}, err
	}
	return b.sequence(&m)
}

// Distribute implements Sink.
func (s *sink) Distribute(group string, m Message) {
	b := (*Broker)(s)
	if b.checkPayload(m.Payload) != nil {
		b.counters.rejected.Add(1)
		return
	}
	b.distributeFromBus(group, m)
}

// Replied implements Sink.
func (s *sink) Replied(address []byte, m Message) {
	b := (*Broker)(s)
	if b.checkPayload(m.Payload) != nil {
		b.counters.rejected.Add(1)
		return
	}
	b.requests.replied(address, m)
}

// NobodyThere implements Sink.
func (s *sink) NobodyThere(address []byte) { s.requests.nobody(address, nobodyElsewhere) }

// Lost implements Sink.
func (s *sink) Lost(pattern, group string) {
	if group != "" {
		(*Broker)(s).groups.lost(pattern, group)
		return
	}
	// Before, for whoever begins meanwhile, and after, so that nobody who comes back has
	// passed the place without having been told.
	s.lostHere(pattern)
	for _, sub := range s.router.exactly(nil, pattern) {
		if sub.pool == nil {
			sub.session.lost(sub)
		}
	}
	s.lostHere(pattern)
}

// lostHere takes note in the topics that a pattern matches that messages were lost.
func (s *sink) lostHere(pattern string) {
	for _, tp := range s.topics.matching(pattern) {
		tp.lost()
	}
}

// Lapsed implements Sink.
func (s *sink) Lapsed(pattern string, listened func(topic string) bool) {
	for _, tp := range s.topics.matching(pattern) {
		if !listened(tp.name) {
			tp.lapse()
		}
	}
}

// Now implements Sink.
func (s *sink) Now() uint64 { return (*Broker)(s).now() }
