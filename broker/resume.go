package broker

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"

	"github.com/tidewire/tidewire/codec"
)

// resumeKey makes and checks the secrets with which clients resume their id
// (PROTOCOL §5.2). A secret is the key's name and a MAC of the id and the
// principal, so the broker keeps nothing for sessions that are away, and an
// unknown key (another broker, or this one before it was restarted) is told from
// a forged secret.
type resumeKey struct {
	name [8]byte
	key  [32]byte
}

func newResumeKey() *resumeKey {
	k := new(resumeKey)
	_, _ = rand.Read(k.name[:]) // never fails: see crypto/rand
	_, _ = rand.Read(k.key[:])
	return k
}

// secret returns the secret of a client id for a principal.
func (k *resumeKey) secret(id codec.ID, principal string) []byte {
	mac := hmac.New(sha256.New, k.key[:])
	mac.Write(id[:]) // a fixed length, so that no other pair gives the same bytes
	mac.Write([]byte(principal))
	return mac.Sum(bytes.Clone(k.name[:]))
}

// check reports whether r may be resumed by the principal: known is false if the
// secret was made with another key.
func (k *resumeKey) check(r codec.Resume, principal string) (known, ok bool) {
	if len(r.Secret) < len(k.name) || !bytes.Equal(r.Secret[:len(k.name)], k.name[:]) {
		return false, false
	}
	return true, hmac.Equal(r.Secret, k.secret(r.Client, principal))
}
