package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// browse runs Chromium on a page until ctx ends, and returns an error if it does
// not stay that long.
func browse(ctx context.Context, program, page string, leaf *x509.Certificate, p ports, extra []string, out io.Writer) error {
	profile, err := os.MkdirTemp("", "wpt-profile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(profile)
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	args := append([]string{
		"--headless=new",
		"--user-data-dir=" + profile,
		"--no-first-run",
		"--disable-popup-blocking",
		"--disable-background-networking",
		// The page that opens the others is in the background most of the time.
		"--disable-background-timer-throttling",
		"--disable-backgrounding-occluded-windows",
		"--disable-renderer-backgrounding",
		"--ignore-certificate-errors-spki-list=" + base64.StdEncoding.EncodeToString(key[:]),
		fmt.Sprintf("--origin-to-force-quic-on=%s:%d", host, p.webTransport),
		"--host-resolver-rules=MAP nonexistent.*.test ^NOTFOUND, MAP *.test 127.0.0.1, MAP *.test. 127.0.0.1",
	}, extra...)
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox")
	}
	command := exec.CommandContext(ctx, program, append(args, page)...)
	command.Stdout, command.Stderr = out, out
	command.WaitDelay = 5 * time.Second
	if err := command.Run(); ctx.Err() == nil {
		return fmt.Errorf("%s ended: %w", program, err)
	}
	return nil
}
