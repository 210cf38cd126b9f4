package wt

import (
	"crypto/tls"
	"time"

	"github.com/quic-go/quic-go"
)

// What servers and clients set in the configurations of TLS and QUIC.

// alpn is the application protocol of HTTP/3 in TLS (RFC 9114 §3.1).
const alpn = "h3"

// defaultKeepAlive is well below QUIC's usual idle timeout of 30 seconds, and
// keeps the bindings of most address translators.
const defaultKeepAlive = 15 * time.Second

// serverTLS sets what HTTP/3 needs on top of base.
func serverTLS(base *tls.Config) *tls.Config {
	config := base.Clone()
	config.NextProtos = []string{alpn}
	config.MinVersion = tls.VersionTLS13
	if base.GetConfigForClient != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := base.GetConfigForClient(hello)
			if chosen == nil || err != nil {
				return chosen, err
			}
			chosen = chosen.Clone()
			chosen.NextProtos = []string{alpn}
			return chosen, nil
		}
	}
	return config
}

// quicConfig sets what WebTransport needs on top of base, which may be nil.
func quicConfig(base *quic.Config, streams, uniStreams int64) *quic.Config {
	config := &quic.Config{KeepAlivePeriod: defaultKeepAlive}
	if base != nil {
		config = base.Clone()
	}
	config.MaxIncomingStreams = streams
	config.MaxIncomingUniStreams = uniStreams
	config.EnableDatagrams = true
	config.EnableStreamResetPartialDelivery = true
	config.Allow0RTT = false
	config.RequireStreamCreditRelease = false
	return config
}

// setTimeouts sets what the application asked for besides its quic.Config.
func setTimeouts(config *quic.Config, idle, keepAlive time.Duration) {
	if idle > 0 {
		config.MaxIdleTimeout = idle
	}
	if keepAlive > 0 {
		config.KeepAlivePeriod = keepAlive
	}
}
