package wt

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// defaultCertificateInterval is short for whoever renews a certificate, and two
// reads of small files in that time cost nothing.
const defaultCertificateInterval = 10 * time.Second

// CertificateFilesConfig configures [CertificateFiles]. CertFile and KeyFile are
// required.
type CertificateFilesConfig struct {
	// CertFile is a PEM file with the certificate and after it the intermediate
	// ones.
	CertFile string
	// KeyFile is a PEM file with the key. It may be CertFile.
	KeyFile string
	// Interval is how often the files are read at most. The default is 10 seconds;
	// a negative one is an error.
	Interval time.Duration
	// Logger gets what happened to the files: at level Info that a new certificate
	// is served, at level Warn why the old one still is. The default discards.
	Logger *slog.Logger
}

// CertificateFiles is a certificate with its key in PEM files that are read again
// when they have changed, as tools do that renew certificates. Sessions are not
// touched by that.
//
// It has no goroutine: the files are read by a handshake, once the interval is
// over. As long as they do not hold a certificate and the key that belongs to it,
// because one of them is broken, missing or not yet written, the last pair that did
// is served. Its methods are safe for concurrent use.
type CertificateFiles struct {
	// Static after construction.
	config CertificateFilesConfig

	current atomic.Pointer[tls.Certificate]

	// reading is held by the one who reads the files. Others go on with the
	// certificate that there is.
	reading   sync.Mutex
	checked   time.Time // guarded by reading, as what follows
	cert, key []byte    // the content of the files that current was made of
	complaint string    // the error that was logged last
}

// LoadCertificateFiles reads a certificate and its key. Its error is that of a
// file, or of a pair that does not belong together.
func LoadCertificateFiles(config CertificateFilesConfig) (*CertificateFiles, error) {
	if config.Interval < 0 {
		return nil, errors.New("wt: CertificateFilesConfig.Interval is negative")
	}
	if config.Interval == 0 {
		config.Interval = defaultCertificateInterval
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	f := &CertificateFiles{config: config}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads the files now. After an error, the certificate is the one before.
func (f *CertificateFiles) Reload() error {
	f.reading.Lock()
	defer f.reading.Unlock()
	_, err := f.readLocked()
	return err
}

// readLocked reads the files and reports whether they have changed.
func (f *CertificateFiles) readLocked() (changed bool, err error) {
	f.checked = time.Now()
	// The content is compared rather than the time of the last change, because a
	// second change may fall into the same tick of the file system's clock.
	cert, err := os.ReadFile(f.config.CertFile)
	if err != nil {
		return false, fmt.Errorf("wt: certificate: %w", err)
	}
	key, err := os.ReadFile(f.config.KeyFile)
	if err != nil {
		return false, fmt.Errorf("wt: certificate: %w", err)
	}
	if bytes.Equal(cert, f.cert) && bytes.Equal(key, f.key) {
		return false, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("wt: certificate %s with key %s: %w", f.config.CertFile, f.config.KeyFile, err)
	}
	f.cert, f.key = cert, key
	f.current.Store(&pair)
	return true, nil
}

// refresh reads the files if the interval is over and nobody else does.
func (f *CertificateFiles) refresh() {
	if !f.reading.TryLock() {
		return
	}
	defer f.reading.Unlock()
	if time.Since(f.checked) < f.config.Interval {
		return
	}
	changed, err := f.readLocked()
	switch {
	case err != nil && err.Error() != f.complaint:
		f.complaint = err.Error()
		f.config.Logger.Warn("old certificate kept", slog.Any("error", err))
	case err == nil:
		f.complaint = ""
		if changed {
			f.config.Logger.Info("new certificate", slog.Time("until", f.current.Load().Leaf.NotAfter))
		}
	}
}

// Certificate returns the certificate of the present.
func (f *CertificateFiles) Certificate() *tls.Certificate {
	f.refresh()
	return f.current.Load()
}

// GetCertificate returns the certificate of the present. It is for the
// tls.Config of a server.
func (f *CertificateFiles) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.Certificate(), nil
}

// GetClientCertificate returns the certificate of the present. It is for the
// tls.Config of a client.
func (f *CertificateFiles) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return f.Certificate(), nil
}

// TLSConfig returns a new configuration with the certificate, for [ServerConfig]
// and, as the client's certificate, for [Dialer].
func (f *CertificateFiles) TLSConfig() *tls.Config {
	return &tls.Config{
		GetCertificate:       f.GetCertificate,
		GetClientCertificate: f.GetClientCertificate,
		MinVersion:           tls.VersionTLS13,
	}
}
