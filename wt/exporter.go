package wt

import (
	"encoding/binary"
	"fmt"
)

// exporterLabel is the label of TLS exporters for sessions
// (draft-ietf-webtrans-http3-16 §4.8).
const exporterLabel = "EXPORTER-WebTransport"

// maxExporterField bounds label and context, of which the length has one byte.
const maxExporterField = 255

// ExportKeyingMaterial derives a secret of length bytes that both sides of the
// session get for the same label and context, and nobody else: not other sessions
// on the connection either. The label has 1 to 255 bytes, the context at most 255
// (draft-ietf-webtrans-http3-16 §4.8, RFC 8446 §7.5). It returns an error if they
// have not, or if the session has ended.
func (s *Session) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	if err := s.endedWith(); err != nil {
		return nil, err
	}
	if label == "" || len(label) > maxExporterField || len(context) > maxExporterField {
		return nil, fmt.Errorf("wt: exporter label of %d bytes and context of %d; 1 to %d and at most %d are possible",
			len(label), len(context), maxExporterField, maxExporterField)
	}
	if length <= 0 {
		return nil, fmt.Errorf("wt: exporter length of %d bytes", length)
	}
	state := s.conn.quic.ConnectionState().TLS
	secret, err := state.ExportKeyingMaterial(exporterLabel, appendExporterContext(nil, s.id, label, context), length)
	if err != nil {
		return nil, fmt.Errorf("wt: exporter: %w", err)
	}
	return secret, nil
}

// appendExporterContext appends the context of the TLS exporter: the session's id,
// and the application's label and context, each after its length.
func appendExporterContext(b []byte, session uint64, label string, context []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, session)
	b = append(b, byte(len(label)))
	b = append(b, label...)
	b = append(b, byte(len(context)))
	return append(b, context...)
}
