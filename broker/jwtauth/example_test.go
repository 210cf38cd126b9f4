package jwtauth_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/jwtauth"
)

// The program that knows who its users are, and the broker, share a secret.
func Example() {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)

	token, err := jwtauth.Sign(jwtauth.SigningKey{HMAC: secret}, jwtauth.Grant{
		Principal: "alice",
		Publish:   []string{"chat.*"},
		Subscribe: []string{"chat.>"},
		Expires:   time.Now().Add(time.Hour),
	})
	if err != nil {
		panic(err)
	}

	auth, err := jwtauth.New(jwtauth.Config{Keys: []jwtauth.Key{{HMAC: secret}}})
	if err != nil {
		panic(err)
	}
	alice, err := auth.Authenticate(context.Background(), broker.Credentials{Token: token})
	if err != nil {
		panic(err)
	}
	fmt.Println(alice.ID())
	fmt.Println("publish to chat.lobby:", alice.CanPublish("chat.lobby"))
	fmt.Println("subscribe to everything:", alice.CanSubscribe(">"))
	// Output:
	// alice
	// publish to chat.lobby: true
	// subscribe to everything: false
}

// With Ed25519 the broker holds the public key only, and cannot make tokens.
func Example_ed25519() {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	auth, err := jwtauth.New(jwtauth.Config{
		Keys:     []jwtauth.Key{{ID: "2026-11", Ed25519: public}},
		Issuer:   "login.example",
		Audience: "chat.example",
	})
	if err != nil {
		panic(err)
	}
	token, err := jwtauth.Sign(jwtauth.SigningKey{ID: "2026-11", Ed25519: private}, jwtauth.Grant{
		Principal: "bob",
		Subscribe: []string{"news.>"},
		Expires:   time.Now().Add(time.Hour),
		Issuer:    "login.example",
		Audience:  "chat.example",
	})
	if err != nil {
		panic(err)
	}
	bob, err := auth.Authenticate(context.Background(), broker.Credentials{Token: token})
	if err != nil {
		panic(err)
	}
	fmt.Println(bob.ID(), bob.CanSubscribe("news.*"), bob.CanPublish("news.today"))
	// Output: bob true false
}

// A list of tokens that were taken back: when it changes the broker is told, and what
// the token had opened ends at once.
func ExampleConfig_revoked() {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	var revoked sync.Map // of principals
	auth, err := jwtauth.New(jwtauth.Config{
		Keys: []jwtauth.Key{{HMAC: secret}},
		Revoked: func(t jwtauth.Token) bool {
			_, ok := revoked.Load(t.Principal)
			return ok
		},
	})
	if err != nil {
		panic(err)
	}
	b, err := broker.New(broker.Config{Authenticator: auth})
	if err != nil {
		panic(err)
	}
	defer func() { _ = b.Close() }()

	token, err := jwtauth.Sign(jwtauth.SigningKey{HMAC: secret}, jwtauth.Grant{
		Principal: "carol",
		Subscribe: []string{"news.>"},
		Expires:   time.Now().Add(time.Hour),
	})
	if err != nil {
		panic(err)
	}
	carol, err := auth.Authenticate(context.Background(), broker.Credentials{Token: token})
	if err != nil {
		panic(err)
	}
	fmt.Println("before:", carol.CanSubscribe("news.today"))

	revoked.Store("carol", true)
	b.Disconnect("carol", "your account was closed") // or Recheck, which leaves the session
	fmt.Println("after:", carol.CanSubscribe("news.today"))
	_, err = auth.Authenticate(context.Background(), broker.Credentials{Token: token})
	fmt.Println(err)
	// Output:
	// before: true
	// after: false
	// tidewire: unauthorized (200): the token is not accepted: it was revoked
}
