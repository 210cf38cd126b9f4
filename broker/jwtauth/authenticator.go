package jwtauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/codec"
)

const (
	// DefaultLeeway is how far the clocks of who makes tokens and who checks them
	// may differ.
	DefaultLeeway = 5 * time.Second
	// MaxLeeway bounds Config.Leeway.
	MaxLeeway = 5 * time.Minute
)

// Config configures an Authenticator. Keys are required. New copies it.
type Config struct {
	// Keys are what tokens are checked with; at least one.
	Keys []Key
	// Issuer, if it is not "", must be the claim iss.
	Issuer string
	// Audience, if it is not "", must be in the claim aud. Set it where the same
	// keys sign tokens for other services too.
	Audience string
	// Leeway is how far clocks may differ, for exp and nbf. 0 is 5 s; at most 5 min.
	Leeway time.Duration
	// AllowNoExpiry accepts tokens without the claim exp. They are good until
	// their key is changed.
	AllowNoExpiry bool
	// Revoked, if it is not nil, reports whether a token that is good otherwise was
	// taken back. It is asked for each HELLO and AUTH, and whenever the broker asks what
	// the token permits, which may be for each message: it must be fast, must not
	// block, and may be called concurrently. After its answer has changed call
	// Broker.Recheck, which ends what the token had opened, or Broker.Disconnect.
	Revoked func(Token) bool
}

// Token is what is known of a token that was accepted.
type Token struct {
	ID        string    // the claim jti; "" if there is none
	Principal string    // the claim sub
	IssuedAt  time.Time // the claim iat; zero if there is none
}

// Authenticator checks tokens; it implements broker.Authenticator. Make one with
// New.
type Authenticator struct {
	keys    []verifier
	methods []string // those of the keys
	parser  *jwt.Parser
	leeway  time.Duration
	revoked func(Token) bool // nil: none is

	required []string // the claims that a token must have
}

var _ broker.Authenticator = (*Authenticator)(nil)

// New makes an authenticator. The error tells what is wrong with the
// configuration, and never a key.
func New(config Config) (*Authenticator, error) {
	if len(config.Keys) == 0 {
		return nil, errors.New("jwtauth: Config.Keys is empty")
	}
	if config.Leeway < 0 || config.Leeway > MaxLeeway {
		return nil, fmt.Errorf("jwtauth: Config.Leeway is not within 0 and %v", MaxLeeway)
	}
	if config.Leeway == 0 {
		config.Leeway = DefaultLeeway
	}
	a := &Authenticator{leeway: config.Leeway, revoked: config.Revoked, required: []string{"sub"}}
	ids := make(map[string]bool)
	for i, key := range config.Keys {
		v, err := key.verifier()
		if err == nil && v.id != "" && ids[v.id] {
			err = errors.New("another key has the same ID")
		}
		if err != nil {
			return nil, fmt.Errorf("jwtauth: Config.Keys[%d]: %w", i, err)
		}
		ids[v.id] = true
		a.keys = append(a.keys, v)
		for _, m := range v.methods {
			if !slices.Contains(a.methods, m) {
				a.methods = append(a.methods, m)
			}
		}
	}
	// The algorithm is checked where the key is chosen: see keysFor.
	options := []jwt.ParserOption{jwt.WithStrictDecoding(), jwt.WithLeeway(config.Leeway)}
	if !config.AllowNoExpiry {
		options = append(options, jwt.WithExpirationRequired())
		a.required = append(a.required, "exp")
	}
	if config.Issuer != "" {
		options = append(options, jwt.WithIssuer(config.Issuer))
		a.required = append(a.required, "iss")
	}
	if config.Audience != "" {
		options = append(options, jwt.WithAudience(config.Audience))
		a.required = append(a.required, "aud")
	}
	a.parser = jwt.NewParser(options...)
	return a, nil
}

// Authenticate implements broker.Authenticator. The error is always a
// *codec.Error: CodeTokenExpired for a token that was good and is no longer, and
// CodeUnauthorized for every other that is not accepted. Its reason tells what to
// do, and neither the token nor a key.
func (a *Authenticator) Authenticate(_ context.Context, c broker.Credentials) (broker.Principal, error) {
	if c.Token == "" {
		return nil, codec.Errorf(codec.CodeUnauthorized, "this broker asks for a token, and none was shown")
	}
	if err := checkForm(c.Token); err != nil {
		return nil, refusal(err.Error())
	}
	var parsed claims
	if _, err := a.parser.ParseWithClaims(c.Token, &parsed, a.keysFor); err != nil {
		return nil, a.refuse(err)
	}
	if err := parsed.check(); err != nil {
		return nil, refusal(err.Error())
	}
	p := &principal{id: parsed.Subject, publish: parsed.Publish, subscribe: parsed.Subscribe}
	if a.revoked != nil {
		token := Token{ID: parsed.ID, Principal: parsed.Subject}
		if parsed.IssuedAt != nil {
			token.IssuedAt = parsed.IssuedAt.Time
		}
		p.revoked = func() bool { return a.revoked(token) }
		if p.revoked() {
			return nil, refusal("it was revoked")
		}
	}
	if parsed.ExpiresAt != nil {
		p.expires = parsed.ExpiresAt.Add(a.leeway)
	}
	return p, nil
}

// checkForm refuses what is not three parts of base64url, before any is decoded.
// The decoder would pass over line breaks, so that one token had many forms.
func checkForm(token string) error {
	switch {
	case len(token) > codec.MaxToken:
		return fmt.Errorf("it is longer than %d bytes", codec.MaxToken)
	case strings.Count(token, ".") != 2 || strings.ContainsFunc(token, notOfToken):
		return errors.New("it is no JSON Web Token: three parts of base64url, joined by dots")
	}
	return nil
}

func notOfToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

var (
	errAlgorithm = errors.New("no key is used with the algorithm")
	errKeyID     = errors.New("no key has the ID")
	errCritical  = errors.New("critical header")
)

// keysFor returns the keys that may have signed a token: used with its algorithm,
// and of its key ID where both have one. That alone decides which algorithms are
// accepted, and that no key is used with an algorithm of another kind.
func (a *Authenticator) keysFor(token *jwt.Token) (any, error) {
	// RFC 7515 §4.1.11: what must be understood and is not makes a token invalid.
	if _, ok := token.Header["crit"]; ok {
		return nil, errCritical
	}
	if !slices.Contains(a.methods, token.Method.Alg()) {
		return nil, errAlgorithm
	}
	id, _ := token.Header["kid"].(string)
	var set jwt.VerificationKeySet
	for _, v := range a.keys {
		if slices.Contains(v.methods, token.Method.Alg()) && (v.id == id || v.id == "" || id == "") {
			set.Keys = append(set.Keys, v.key)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errKeyID
	}
	return set, nil
}

// refuse makes the error for a token that the library refused. A token is called
// expired only if nothing else is wrong with it, so that a client asks for a new
// one only where that helps.
func (a *Authenticator) refuse(err error) error {
	switch {
	case errors.Is(err, errCritical):
		return refusal("its header asks for extensions (crit) that this broker does not know")
	case errors.Is(err, errKeyID):
		return refusal("this broker has no key of its kid and alg")
	case errors.Is(err, jwt.ErrTokenUnverifiable): // errAlgorithm, or one that the library does not have
		return refusal("its alg is not accepted here; accepted: " + strings.Join(a.methods, ", "))
	case errors.Is(err, jwt.ErrTokenMalformed):
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field != "" {
			kind, _, _ := strings.Cut(e.Value, " ") // a number follows with its digits
			return refusal("its claim " + e.Field[strings.LastIndexByte(e.Field, '.')+1:] + " has a value of the wrong type: " + kind)
		}
		return refusal("its header or claims are not those of a JSON Web Token")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return refusal("its signature fits no key of this broker; was it made with another key?")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return refusal("its claim iss is not the issuer that this broker trusts")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return refusal("its claim aud does not name this broker")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return refusal("it lacks a claim that this broker requires: " + strings.Join(a.required, ", "))
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return refusal("it is not valid yet (nbf); do the clocks agree?")
	case errors.Is(err, jwt.ErrTokenExpired):
		return codec.Errorf(codec.CodeTokenExpired, "the token has expired: come back with a new one")
	}
	return refusal("its claims are not valid")
}

// refusal makes the error for a token that is not accepted.
func refusal(reason string) error {
	return &codec.Error{Code: codec.CodeUnauthorized, Reason: "the token is not accepted: " + reason}
}
