// Package jwtauth is the broker's authenticator with JSON Web Tokens (RFC 7519).
//
// # Usage
//
//	auth, err := jwtauth.New(jwtauth.Config{
//		Keys:     []jwtauth.Key{{HMAC: secret}},
//		Audience: "chat.example",
//	})
//	b, err := broker.New(broker.Config{Authenticator: auth})
//
// # The token
//
// Its payload has these claims:
//
//	{
//	  "sub": "alice",                       who: the principal's ID, required
//	  "exp": 1795000000,                    until when, required by default
//	  "publish": ["chat.*"],                patterns that may be published to
//	  "subscribe": ["chat.>", "news.today"] patterns that may be subscribed to
//	}
//
// and may have nbf, iss and aud, which are checked. A list that is left out
// permits nothing. A list has at most 256 patterns (PROTOCOL §3), none of them of
// the system. A client may subscribe to a pattern only if one pattern of the list
// contains it, and publish to a topic only if one matches it.
//
// [Sign] makes such tokens, for programs that hand them out and for tests.
//
// # Keys and algorithms
//
// A [Key] is a shared secret (HS256, and HS384 and HS512 where the secret is long
// enough for them) or an Ed25519 public key (EdDSA). The algorithm that a token
// names only chooses among the keys of that kind: a token without a signature is
// never accepted, nor is a public key ever taken for a secret. Several keys at
// once let one replace another: a token that names a key (kid) is checked with
// the key of that ID and those that have none, any other token with all.
//
// # Taking tokens back
//
// A token is good until it expires, so let it expire soon: clients replace it in
// place. To take one back earlier set [Config.Revoked], and tell the broker with
// Recheck or Disconnect when its answer has changed.
//
// # Concurrency
//
// An [Authenticator] does not change after New, does no I/O but what Config.Revoked
// does, and may be used concurrently.
package jwtauth
