package wt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultRotationPeriod = 10 * 24 * time.Hour
	// maxRotationPeriod leaves an identity half a day of validity on either side of
	// its period, for clocks that differ.
	maxRotationPeriod = identityLifetime - 24*time.Hour
	// rotationReserve is how long before its end an identity counts as expired.
	rotationReserve = time.Hour
	// rotationRetry is how long a file that could not be written is left alone.
	rotationRetry = time.Minute

	rotationPrefix = "identity-"
	rotationSuffix = ".pem"
)

// RotationConfig configures a [Rotation]. The zero value works: it keeps nothing
// on disk.
type RotationConfig struct {
	// Hosts are the names and IP addresses of the certificates, as in
	// [NewDevIdentity]. An identity that was saved keeps its own.
	Hosts []string
	// Period is how long each identity is served, and with that how long the hash
	// of the next one has been published before it is. The default is 10 days, and
	// more than 12 days is an error.
	Period time.Duration
	// Dir, if it is not "", is a directory in which the identities are saved, so
	// that hashes outlive a restart. It is made if it is missing. It must belong to
	// one Rotation alone, and it holds private keys.
	Dir string
	// Logger gets what cannot be returned as an error: a file that could not be
	// written or removed, at level Warn. The default discards.
	Logger *slog.Logger
}

// Rotation is the identity of a server that runs for longer than a browser trusts
// a certificate by its hash. It makes self-signed identities as [NewDevIdentity]
// does, serves each of them for a period, and has the next one ready all that
// time:
//
//	served     A A A A A A A A B B B B B B B B C C C C …
//	published  A+B . . . . . . B+C . . . . . . C+D . . …
//
// So a client that has the hashes of any moment can connect for at least one
// period more, and at most two. Sessions are not touched by a rotation.
//
// It has no goroutine: what is due happens when a client connects or a method is
// called. A server that was stopped for long still serves the identity that was
// next, as long as that is valid. Its methods are safe for concurrent use.
type Rotation struct {
	// Static after construction.
	config RotationConfig
	slack  time.Duration // how long an identity is valid before its period, and after it

	// Guarded by mu.
	mu            sync.Mutex
	present, next *Identity
	unsaved       []*Identity
	retry         time.Time // not before then are they saved again
}

// NewRotation returns a rotation with its first two identities, which it reads
// from the directory if they are there. Its error is that of a file or of the
// configuration.
func NewRotation(config RotationConfig) (*Rotation, error) {
	switch {
	case config.Period == 0:
		config.Period = defaultRotationPeriod
	case config.Period < 0 || config.Period > maxRotationPeriod:
		return nil, fmt.Errorf("wt: RotationConfig.Period is %v, not above 0 and up to %v", config.Period, maxRotationPeriod)
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	config.Hosts = slices.Clone(config.Hosts)
	r := &Rotation{config: config, slack: (identityLifetime - config.Period) / 2}
	now := time.Now()
	if config.Dir != "" {
		if err := r.load(now); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.advanceLocked(now); err != nil {
		return nil, err
	}
	return r, nil
}

// load takes present and next from the directory.
func (r *Rotation) load(now time.Time) error {
	if err := os.MkdirAll(r.config.Dir, 0o700); err != nil {
		return fmt.Errorf("wt: rotation: %w", err)
	}
	paths, err := r.saved()
	if err != nil {
		return fmt.Errorf("wt: rotation: %w", err)
	}
	var kept []*Identity
	for _, path := range paths {
		identity, err := LoadIdentity(path)
		if err != nil {
			return err
		}
		if until(identity).After(now) {
			kept = append(kept, identity)
		}
	}
	slices.SortFunc(kept, func(a, b *Identity) int { return r.start(a).Compare(r.start(b)) })
	for _, identity := range kept {
		if !r.start(identity).After(now) {
			r.present = identity
		} else if r.next == nil {
			r.next = identity
		}
	}
	return nil
}

// saved returns the paths of the identities in the directory.
func (r *Rotation) saved() ([]string, error) {
	entries, err := os.ReadDir(r.config.Dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, entry := range entries {
		if name := entry.Name(); strings.HasPrefix(name, rotationPrefix) && strings.HasSuffix(name, rotationSuffix) {
			paths = append(paths, filepath.Join(r.config.Dir, name))
		}
	}
	return paths, nil
}

// start is when the period of an identity begins.
func (r *Rotation) start(i *Identity) time.Time {
	return i.certificate.Leaf.NotBefore.Add(r.slack)
}

// until is when an identity is of no more use.
func until(i *Identity) time.Time { return i.certificate.Leaf.NotAfter.Add(-rotationReserve) }

func usable(i *Identity, now time.Time) bool {
	return i != nil && !now.Before(i.certificate.Leaf.NotBefore) && now.Before(until(i))
}

// advanceLocked does what is due. After an error of making an identity the
// rotation is as it was; after one of the disk it has advanced.
func (r *Rotation) advanceLocked(now time.Time) (err error) {
	present, next := r.present, r.next
	if next != nil && !now.Before(r.start(next)) {
		present, next = next, nil
	}
	if !usable(present, now) {
		// Better a published identity before its time than an unknown one.
		present, next = next, nil
		if !usable(present, now) {
			if present, err = r.makeLocked(now); err != nil {
				return err
			}
		}
	}
	if next == nil {
		// Its hash is published for a period, unless this one does not last as long.
		start := now.Add(r.config.Period)
		if end := until(present); end.Before(start) {
			start = end
		}
		if next, err = r.makeLocked(start); err != nil {
			return err
		}
	}
	changed := present != r.present
	r.present, r.next = present, next
	if changed && r.config.Dir != "" {
		r.clean(now)
	}
	return r.saveLocked(now)
}

// makeLocked makes the identity of the period that begins at start.
func (r *Rotation) makeLocked(start time.Time) (*Identity, error) {
	from := start.Add(-r.slack)
	identity, err := newSelfSigned(r.config.Hosts, from, from.Add(identityLifetime))
	if err != nil {
		return nil, err
	}
	if r.config.Dir != "" {
		r.unsaved = append(r.unsaved, identity)
	}
	return identity, nil
}

// saveLocked writes the identities that are not on disk yet.
func (r *Rotation) saveLocked(now time.Time) error {
	if len(r.unsaved) == 0 || now.Before(r.retry) {
		return nil
	}
	var errs []error
	r.unsaved = slices.DeleteFunc(r.unsaved, func(i *Identity) bool {
		if i != r.present && i != r.next {
			return true
		}
		err := i.Save(r.path(i))
		errs = append(errs, err)
		return err == nil
	})
	err := errors.Join(errs...)
	if err != nil {
		r.retry = now.Add(rotationRetry)
	}
	return err
}

// path names the file of an identity by the beginning of its validity.
func (r *Rotation) path(i *Identity) string {
	from := i.certificate.Leaf.NotBefore.UTC().Format("20060102T150405Z")
	return filepath.Join(r.config.Dir, rotationPrefix+from+rotationSuffix)
}

// clean removes the files of identities that have expired.
func (r *Rotation) clean(now time.Time) {
	paths, err := r.saved()
	for _, path := range paths {
		var identity *Identity
		if identity, err = LoadIdentity(path); err == nil && !until(identity).After(now) {
			err = os.Remove(path)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		r.config.Logger.Warn("expired identities not removed", slog.Any("error", err))
	}
}

// current does what is due and returns what there is then.
func (r *Rotation) current() (present, next *Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.advanceLocked(time.Now()); err != nil {
		r.config.Logger.Warn("identity rotation", slog.Any("error", err))
	}
	return r.present, r.next
}

// Present returns the identity that the server serves now.
func (r *Rotation) Present() *Identity {
	present, _ := r.current()
	return present
}

// Next returns the identity that the server will serve after the present one.
func (r *Rotation) Next() *Identity {
	_, next := r.current()
	return next
}

// NextAt returns when the server changes to the next identity. From then on
// Hashes returns others, so whatever hands them out need not ask again before.
func (r *Rotation) NextAt() time.Time { return r.start(r.Next()) }

// Hashes returns the hashes that clients are to be given, all of them: those of
// the present and of the next identity. Package encoding/json writes each as an
// array of numbers, of which a page makes a Uint8Array.
func (r *Rotation) Hashes() [][32]byte {
	present, next := r.current()
	return [][32]byte{present.Hash(), next.Hash()}
}

// GetCertificate returns the certificate of the present identity. It is for
// tls.Config.
func (r *Rotation) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &r.Present().certificate, nil
}

// TLSConfig returns a new configuration with the certificates, for
// [ServerConfig].
func (r *Rotation) TLSConfig() *tls.Config {
	return &tls.Config{GetCertificate: r.GetCertificate, MinVersion: tls.VersionTLS13}
}
