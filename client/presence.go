package client

// presencePrefix is before the name of a topic whose presence is meant (PROTOCOL
// §7.8).
const presencePrefix = "$presence."
