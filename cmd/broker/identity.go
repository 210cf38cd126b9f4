package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tidewire/tidewire/wt"
)

// identityReserve is how long a stored identity must still be valid to be used
// again.
const identityReserve = 48 * time.Hour

// stateFlags tell where the development identity is kept, for the broker that
// makes it and for the commands that trust it.
type stateFlags struct {
	StateDir string `help:"Folder of the development identity. The default is tidewire in the user's configuration folder." env:"TIDEWIRE_STATE_DIR" placeholder:"DIR"`
}

// dir returns the folder, which need not exist.
func (f stateFlags) dir() (string, error) {
	if f.StateDir != "" {
		return f.StateDir, nil
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the development identity (%w); name one with --state-dir or TIDEWIRE_STATE_DIR", err)
	}
	return filepath.Join(config, "tidewire"), nil
}

func (f stateFlags) file() (string, error) {
	dir, err := f.dir()
	return filepath.Join(dir, "dev-identity.pem"), err
}

// loadOrMake returns the stored identity, or a new one, which it stores, if there
// is none or it is about to expire. Certificate and key are one PEM file that
// only its owner can read.
func (f stateFlags) loadOrMake() (*wt.Identity, error) {
	path, err := f.file()
	if err != nil {
		return nil, err
	}
	identity, err := wt.LoadIdentity(path)
	switch {
	case err == nil && identity.ValidAt(time.Now()) && identity.ValidAt(time.Now().Add(identityReserve)):
		return identity, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w; delete that file and a new one is made", err)
	}
	if identity, err = wt.NewDevIdentity(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("the folder for the development identity: %w", err)
	}
	return identity, identity.Save(path)
}

// load returns the stored identity; nil without an error if there is none.
func (f stateFlags) load() (*wt.Identity, error) {
	path, err := f.file()
	if err != nil {
		return nil, err
	}
	identity, err := wt.LoadIdentity(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return identity, err
}
