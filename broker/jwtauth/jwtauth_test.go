package jwtauth_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/jwtauth"
	"github.com/tidewire/tidewire/codec"
)

var secret = []byte("a secret that only tests know, 64 bytes long, for HS512 as well.")

// grant is one that is good for an hour.
func grant() jwtauth.Grant {
	return jwtauth.Grant{
		Principal: "alice",
		Publish:   []string{"chat.*", "news"},
		Subscribe: []string{"chat.>"},
		Expires:   time.Now().Add(time.Hour),
	}
}

func newAuth(t testing.TB, c jwtauth.Config) *jwtauth.Authenticator {
	t.Helper()
	a, err := jwtauth.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func withHMAC(t testing.TB) *jwtauth.Authenticator {
	t.Helper()
	return newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret}}})
}

func sign(t testing.TB, key jwtauth.SigningKey, g jwtauth.Grant) string {
	t.Helper()
	token, err := jwtauth.Sign(key, g)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// signClaims signs what Sign would refuse to.
func signClaims(t testing.TB, method jwt.SigningMethod, key any, c jwt.MapClaims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// accept wants a token to be accepted.
func accept(t testing.TB, a *jwtauth.Authenticator, token string) broker.Principal {
	t.Helper()
	p, err := a.Authenticate(t.Context(), broker.Credentials{Token: token})
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return p
}

// refuse wants a token to be refused with a code, and a reason that has a text
// and gives nothing away.
func refuse(t testing.TB, a *jwtauth.Authenticator, token string, code codec.Code, text string) {
	t.Helper()
	p, err := a.Authenticate(t.Context(), broker.Credentials{Token: token})
	if err == nil {
		t.Fatalf("%s was accepted as %q", token, p.ID())
	}
	coded, ok := errors.AsType[*codec.Error](err)
	if !ok || coded.Code != code || !strings.Contains(coded.Reason, text) {
		t.Errorf("refused with %v, want %v and %q", err, code, text)
	}
	if ok && (len(coded.Reason) > codec.MaxReason || strings.Contains(coded.Reason, string(secret)) || token != "" && strings.Contains(coded.Reason, token)) {
		t.Errorf("the reason tells too much: %q", coded.Reason)
	}
}

func TestPrincipal(t *testing.T) {
	g := grant()
	p := accept(t, withHMAC(t), sign(t, jwtauth.SigningKey{HMAC: secret}, g))
	if p.ID() != "alice" {
		t.Errorf("principal %q", p.ID())
	}
	if want := g.Expires.Truncate(time.Second).Add(jwtauth.DefaultLeeway); !p.Expires().Equal(want) {
		t.Errorf("expires %v, want %v: the claim and the leeway", p.Expires(), want)
	}
	for topic, want := range map[string]bool{
		"chat.lobby": true, "news": true, "chat": false, "chat.lobby.x": false, "newsx": false, "other": false,
	} {
		if p.CanPublish(topic) != want {
			t.Errorf("CanPublish(%q) is %v", topic, !want)
		}
	}
	for pattern, want := range map[string]bool{
		"chat.lobby": true, "chat.*": true, "chat.>": true, "chat.*.x.>": true,
		// Wider than what is permitted, or beside it: refused, not narrowed.
		">": false, "*.lobby": false, "chat": false, "*": false, "news": false,
	} {
		if p.CanSubscribe(pattern) != want {
			t.Errorf("CanSubscribe(%q) is %v", pattern, !want)
		}
	}
}

// A token that is taken back permits nothing from then on.
func TestRevoked(t *testing.T) {
	issued := time.Now().Add(-time.Minute).Truncate(time.Second)
	var asked jwtauth.Token
	revoked := false
	a, err := jwtauth.New(jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret}}, Revoked: func(token jwtauth.Token) bool {
		asked = token
		return revoked
	}})
	if err != nil {
		t.Fatal(err)
	}
	g := grant()
	g.ID, g.IssuedAt = "seven", issued
	token := sign(t, jwtauth.SigningKey{HMAC: secret}, g)
	p := accept(t, a, token)
	if asked.ID != "seven" || asked.Principal != "alice" || !asked.IssuedAt.Equal(issued) {
		t.Errorf("asked about %+v", asked)
	}
	if !p.CanPublish("chat.lobby") || !p.CanSubscribe("chat.lobby") {
		t.Error("a good token permits nothing")
	}
	revoked = true
	if p.CanPublish("chat.lobby") || p.CanSubscribe("chat.lobby") {
		t.Error("a token that was taken back permits something")
	}
	refuse(t, a, token, codec.CodeUnauthorized, "revoked")
	bad := signClaims(t, jwt.SigningMethodHS256, secret, jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix(), "iat": 1e300}, nil)
	refuse(t, a, bad, codec.CodeUnauthorized, "")
}

func TestNothingIsPermittedByDefault(t *testing.T) {
	p := accept(t, withHMAC(t), sign(t, jwtauth.SigningKey{HMAC: secret}, jwtauth.Grant{Principal: "bob", Expires: time.Now().Add(time.Hour)}))
	if p.CanPublish("a") || p.CanSubscribe("a") {
		t.Error("a token without lists permits something")
	}
}

func TestEverythingIsNotTheSystem(t *testing.T) {
	g := grant()
	g.Publish, g.Subscribe = []string{">"}, []string{">"}
	p := accept(t, withHMAC(t), sign(t, jwtauth.SigningKey{HMAC: secret}, g))
	if !p.CanPublish("any.topic") || !p.CanSubscribe(">") {
		t.Error("> does not permit everything")
	}
	if p.CanPublish("$JS.API.x") || p.CanSubscribe("_INBOX.>") || p.CanSubscribe("$JS.API.>") {
		t.Error("> permits topics of the system")
	}
}

func TestAlgorithms(t *testing.T) {
	c := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	short := newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret[:32]}}})
	middle := newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret[:48]}}})
	long := withHMAC(t)
	eddsa := newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{Ed25519: public}}})
	both := newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{Ed25519: public}, {HMAC: secret}}})

	for name, test := range map[string]struct {
		auth   *jwtauth.Authenticator
		method jwt.SigningMethod
		key    any
		reason string // "": accepted
	}{
		"HS256":                           {long, jwt.SigningMethodHS256, secret, ""},
		"HS384":                           {long, jwt.SigningMethodHS384, secret, ""},
		"HS512":                           {long, jwt.SigningMethodHS512, secret, ""},
		"HS256, 32 bytes":                 {short, jwt.SigningMethodHS256, secret[:32], ""},
		"HS384, 32 bytes":                 {short, jwt.SigningMethodHS384, secret[:32], "accepted: HS256"},
		"HS384, 48 bytes":                 {middle, jwt.SigningMethodHS384, secret[:48], ""},
		"HS512, 48 bytes":                 {middle, jwt.SigningMethodHS512, secret[:48], "accepted: HS256, HS384"},
		"EdDSA":                           {eddsa, jwt.SigningMethodEdDSA, private, ""},
		"EdDSA, beside a secret":          {both, jwt.SigningMethodEdDSA, private, ""},
		"HS256, beside a public key":      {both, jwt.SigningMethodHS256, secret, ""},
		"none":                            {both, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "accepted: EdDSA, HS256"},
		"RS256":                           {both, jwt.SigningMethodRS256, rsaKey, "accepted: EdDSA, HS256"},
		"EdDSA, for a secret":             {long, jwt.SigningMethodEdDSA, private, "accepted: HS256"},
		"HS256, for a public key":         {eddsa, jwt.SigningMethodHS256, secret, "accepted: EdDSA"},
		"HS256 with the public key":       {both, jwt.SigningMethodHS256, []byte(public), "signature"},
		"HS256 with the public key alone": {eddsa, jwt.SigningMethodHS256, []byte(public), "accepted: EdDSA"},
		"HS256 with another secret":       {long, jwt.SigningMethodHS256, bytes.ToUpper(secret), "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			token := signClaims(t, test.method, test.key, c, nil)
			if test.reason == "" {
				accept(t, test.auth, token)
				return
			}
			refuse(t, test.auth, token, codec.CodeUnauthorized, test.reason)
		})
	}
}

func TestKeyIDs(t *testing.T) {
	other := bytes.ToUpper(secret)
	a := newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{ID: "old", HMAC: secret}, {ID: "new", HMAC: other}}})
	accept(t, a, sign(t, jwtauth.SigningKey{ID: "old", HMAC: secret}, grant()))
	accept(t, a, sign(t, jwtauth.SigningKey{ID: "new", HMAC: other}, grant()))
	accept(t, a, sign(t, jwtauth.SigningKey{HMAC: other}, grant()))
	refuse(t, a, sign(t, jwtauth.SigningKey{ID: "old", HMAC: other}, grant()), codec.CodeUnauthorized, "signature")
	refuse(t, a, sign(t, jwtauth.SigningKey{ID: "lost", HMAC: secret}, grant()), codec.CodeUnauthorized, "kid")

	nameless := withHMAC(t)
	accept(t, nameless, sign(t, jwtauth.SigningKey{ID: "any", HMAC: secret}, grant()))
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := withHMAC(t)
		g := grant()
		g.Expires = time.Now().Add(time.Minute)
		g.NotBefore = time.Now().Add(30 * time.Second)
		token := sign(t, jwtauth.SigningKey{HMAC: secret}, g)
		refuse(t, a, token, codec.CodeUnauthorized, "not valid yet")
		time.Sleep(25 * time.Second) // the leeway before nbf
		accept(t, a, token)
		time.Sleep(40*time.Second - time.Nanosecond) // the leeway after exp is not over
		accept(t, a, token)
		time.Sleep(time.Nanosecond)
		refuse(t, a, token, codec.CodeTokenExpired, "new one")
	})
}

func TestExpiryIsRequired(t *testing.T) {
	g := grant()
	g.Expires = time.Time{}
	token := sign(t, jwtauth.SigningKey{HMAC: secret}, g)
	refuse(t, withHMAC(t), token, codec.CodeUnauthorized, "requires: sub, exp")
	p := accept(t, newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret}}, AllowNoExpiry: true}), token)
	if !p.Expires().IsZero() {
		t.Errorf("expires %v", p.Expires())
	}
}

func TestIssuerAndAudience(t *testing.T) {
	a := newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret}}, Issuer: "login", Audience: "chat"})
	key := jwtauth.SigningKey{HMAC: secret}
	for _, test := range []struct{ issuer, audience, reason string }{
		{"login", "chat", ""},
		{"", "chat", "requires: sub, exp, iss, aud"},
		{"login", "", "requires: sub, exp, iss, aud"},
		{"another", "chat", "iss"},
		{"login", "another", "aud"},
	} {
		g := grant()
		g.Issuer, g.Audience = test.issuer, test.audience
		token := sign(t, key, g)
		if test.reason == "" {
			accept(t, a, token)
			continue
		}
		refuse(t, a, token, codec.CodeUnauthorized, test.reason)
		// A new token of the same kind would be of no use, so that counts first.
		g.Expires = time.Now().Add(-time.Hour)
		refuse(t, a, sign(t, key, g), codec.CodeUnauthorized, test.reason)
	}
}

func TestMalformed(t *testing.T) {
	a := withHMAC(t)
	good := sign(t, jwtauth.SigningKey{HMAC: secret}, grant())
	parts := strings.Split(good, ".")
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	forged := part(`{"sub":"root","exp":4000000000,"publish":[">"]}`)
	for name, test := range map[string]struct{ token, reason string }{
		"missing":             {"", "none was shown"},
		"no token":            {"secret", "three parts"},
		"two parts":           {parts[0] + "." + parts[1], "three parts"},
		"four parts":          {good + ".x", "three parts"},
		"a line break":        {good + "\n", "three parts"},
		"padding":             {good + "=", "three parts"},
		"too long":            {strings.Repeat("a", codec.MaxToken) + ".a.a", "longer than 16384"},
		"header not base64":   {"a." + parts[1] + "." + parts[2], "header or claims"},
		"header not JSON":     {part("x") + "." + parts[1] + "." + parts[2], "header or claims"},
		"no alg":              {part("{}") + "." + parts[1] + "." + parts[2], "alg"},
		"claims not JSON":     {parts[0] + "." + part("x") + "." + parts[2], "header or claims"},
		"claims null":         {parts[0] + "." + part("null") + "." + parts[2], "signature"},
		"other claims":        {parts[0] + "." + forged + "." + parts[2], "signature"},
		"no signature":        {parts[0] + "." + parts[1] + ".", "signature"},
		"cut signature":       {good[:len(good)-3], "signature"},
		"unknown alg":         {part(`{"alg":"HS1"}`) + "." + parts[1] + "." + parts[2], "alg"},
		"alg none, forged":    {part(`{"alg":"none"}`) + "." + forged + ".", "alg"},
		"alg None, forged":    {part(`{"alg":"None"}`) + "." + forged + ".", "alg"},
		"deep nesting":        {part(`{"alg":"HS256","x":`+strings.Repeat("[", 9000)) + ".a.a", "header or claims"},
		"trailing bits":       {parts[0] + "." + parts[1] + "." + setTrailingBit(parts[2]), "header or claims"},
		"header is a list":    {part("[]") + "." + parts[1] + "." + parts[2], "header or claims"},
		"alg is not a string": {part(`{"alg":7}`) + "." + parts[1] + "." + parts[2], "alg"},
	} {
		t.Run(name, func(t *testing.T) { refuse(t, a, test.token, codec.CodeUnauthorized, test.reason) })
	}
}

// setTrailingBit changes the last character of base64url so that it decodes to
// the same bytes without strictness.
func setTrailingBit(s string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, s[len(s)-1])
	return s[:len(s)-1] + string(digits[last^1])
}

func TestBadClaims(t *testing.T) {
	a := withHMAC(t)
	many := make([]string, jwtauth.MaxPatterns+1)
	for i := range many {
		many[i] = fmt.Sprintf("t.%d", i)
	}
	exp := time.Now().Add(time.Hour).Unix()
	for name, test := range map[string]struct {
		claims jwt.MapClaims
		reason string
	}{
		"no sub":                   {jwt.MapClaims{"exp": exp}, "sub"},
		"long sub":                 {jwt.MapClaims{"exp": exp, "sub": strings.Repeat("x", 257)}, "sub"},
		"sub is a number":          {jwt.MapClaims{"exp": exp, "sub": 7}, "claim sub has a value of the wrong type: number"},
		"publish is a string":      {jwt.MapClaims{"exp": exp, "sub": "a", "publish": "x"}, "claim publish has a value of the wrong type: string"},
		"subscribe has a number":   {jwt.MapClaims{"exp": exp, "sub": "a", "subscribe": []any{"x", 7}}, "claim subscribe has a value of the wrong type: number"},
		"publish has a null":       {jwt.MapClaims{"exp": exp, "sub": "a", "publish": []any{nil}}, "not a pattern"},
		"publish is no pattern":    {jwt.MapClaims{"exp": exp, "sub": "a", "publish": []string{"a..b"}}, `"a..b" is not a pattern`},
		"subscribe is no pattern":  {jwt.MapClaims{"exp": exp, "sub": "a", "subscribe": []string{"a.>.b"}}, `"a.>.b" is not a pattern`},
		"publish to the system":    {jwt.MapClaims{"exp": exp, "sub": "a", "publish": []string{"$JS.API.>"}}, "system"},
		"subscribe to the system":  {jwt.MapClaims{"exp": exp, "sub": "a", "subscribe": []string{"_INBOX.>"}}, "system"},
		"too many to publish to":   {jwt.MapClaims{"exp": exp, "sub": "a", "publish": many}, "at most 256"},
		"too many to subscribe to": {jwt.MapClaims{"exp": exp, "sub": "a", "subscribe": many}, "at most 256"},
		"exp is a string":          {jwt.MapClaims{"exp": "tomorrow", "sub": "a"}, "header or claims"},
		"exp after the year 9999":  {jwt.MapClaims{"exp": 253402300800, "sub": "a"}, "nbf or iat"},
		"aud is a number":          {jwt.MapClaims{"exp": exp, "sub": "a", "aud": 7}, "header or claims"},
	} {
		t.Run(name, func(t *testing.T) {
			refuse(t, a, signClaims(t, jwt.SigningMethodHS256, secret, test.claims, nil), codec.CodeUnauthorized, test.reason)
		})
	}
	accept(t, a, signClaims(t, jwt.SigningMethodHS256, secret, jwt.MapClaims{"exp": exp, "sub": "a", "publish": many[1:]}, nil))
}

func TestCriticalHeader(t *testing.T) {
	c := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	token := signClaims(t, jwt.SigningMethodHS256, secret, c, map[string]any{"crit": []string{"b64"}, "b64": false})
	refuse(t, withHMAC(t), token, codec.CodeUnauthorized, "crit")
}

func TestBadConfig(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]jwtauth.Config{
		"Keys is empty":   {},
		"at least 32":     {Keys: []jwtauth.Key{{HMAC: secret[:31]}}},
		"either HMAC":     {Keys: []jwtauth.Key{{HMAC: secret, Ed25519: public}}},
		"needs either":    {Keys: []jwtauth.Key{{ID: "x"}}},
		"has 32 bytes":    {Keys: []jwtauth.Key{{Ed25519: public[1:]}}},
		"longer than 128": {Keys: []jwtauth.Key{{ID: strings.Repeat("x", 129), HMAC: secret}}},
		"Keys[1]":         {Keys: []jwtauth.Key{{ID: "x", HMAC: secret}, {ID: "x", Ed25519: public}}},
		"Leeway":          {Keys: []jwtauth.Key{{HMAC: secret}}, Leeway: time.Hour},
		"Config.Leeway":   {Keys: []jwtauth.Key{{HMAC: secret}}, Leeway: -1},
	} {
		if _, err := jwtauth.New(c); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), string(secret[:31])) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestConfigIsCopied(t *testing.T) {
	key := bytes.Clone(secret)
	a := newAuth(t, jwtauth.Config{Keys: []jwtauth.Key{{HMAC: key}}})
	clear(key)
	accept(t, a, sign(t, jwtauth.SigningKey{HMAC: secret}, grant()))
}

func TestSignRefuses(t *testing.T) {
	for want, test := range map[string]struct {
		key    jwtauth.SigningKey
		change func(*jwtauth.Grant)
	}{
		"at least 32":       {jwtauth.SigningKey{HMAC: []byte("short")}, func(*jwtauth.Grant) {}},
		"needs either":      {jwtauth.SigningKey{}, func(*jwtauth.Grant) {}},
		"private key has":   {jwtauth.SigningKey{Ed25519: make([]byte, 3)}, func(*jwtauth.Grant) {}},
		"sub":               {jwtauth.SigningKey{HMAC: secret}, func(g *jwtauth.Grant) { g.Principal = "" }},
		"publish":           {jwtauth.SigningKey{HMAC: secret}, func(g *jwtauth.Grant) { g.Publish = []string{""} }},
		"system":            {jwtauth.SigningKey{HMAC: secret}, func(g *jwtauth.Grant) { g.Subscribe = []string{"$x"} }},
		"16 KiB":            {jwtauth.SigningKey{HMAC: secret}, func(g *jwtauth.Grant) { g.Issuer = strings.Repeat("x", codec.MaxToken) }},
		"seconds since":     {jwtauth.SigningKey{HMAC: secret}, func(g *jwtauth.Grant) { g.Expires = time.Unix(-1, 0) }},
		"longer than 128 b": {jwtauth.SigningKey{ID: strings.Repeat("x", 129), HMAC: secret}, func(*jwtauth.Grant) {}},
	} {
		g := grant()
		test.change(&g)
		if token, err := jwtauth.Sign(test.key, g); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, %v, want %q", token, err, want)
		}
	}
}

func TestPEM(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	publicPEM := encode("PUBLIC KEY", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(private)
	privatePEM := encode("PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(rsaKey.Public())
	rsaPublic := encode("PUBLIC KEY", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(rsaKey)
	rsaPrivate := encode("PRIVATE KEY", der, err)

	if got, err := jwtauth.ParseEd25519PublicKey(publicPEM); err != nil || !got.Equal(public) {
		t.Errorf("public key: %v", err)
	}
	if got, err := jwtauth.ParseEd25519PrivateKey(privatePEM); err != nil || !got.Equal(private) {
		t.Errorf("private key: %v", err)
	}
	broken := encode("PUBLIC KEY", []byte("x"), nil)
	for want, text := range map[string][]byte{
		"no PEM": []byte("x"), "private key": privatePEM, "of Ed25519": rsaPublic, "CERTIFICATE": encode("CERTIFICATE", nil, nil), "public key: ": broken,
	} {
		if _, err := jwtauth.ParseEd25519PublicKey(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for want, text := range map[string][]byte{"no PEM": publicPEM, "of Ed25519": rsaPrivate, "private key: ": encode("PRIVATE KEY", []byte("x"), nil)} {
		if _, err := jwtauth.ParseEd25519PrivateKey(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
