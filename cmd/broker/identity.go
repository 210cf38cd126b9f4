package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidewire/tidewire/wt"
)

// stateFlags tell where the development identities are kept, for the broker that
// makes them and for the commands that trust them.
type stateFlags struct {
	StateDir string `help:"Folder of the development identities and of the secret of broker token. The default is tidewire in the user's configuration folder." env:"TIDEWIRE_STATE_DIR" placeholder:"DIR"`
}

// dir returns the folder, which need not exist.
func (f stateFlags) dir() (string, error) {
	if f.StateDir != "" {
		return f.StateDir, nil
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no folder for what the broker keeps (%w); name one with --state-dir or TIDEWIRE_STATE_DIR", err)
	}
	return filepath.Join(config, "tidewire"), nil
}

// identities returns the folder of the development identities of all brokers.
func (f stateFlags) identities() (string, error) {
	dir, err := f.dir()
	return filepath.Join(dir, "identities"), err
}

// rotation returns the development identities of the broker with an address: the one
// that it serves, and the next. They are kept in a folder of that address's own, so
// that no two brokers that run have the same; without a home in memory only, and
// unsaved tells why.
func (f stateFlags) rotation(addr string, log *slog.Logger) (rotation *wt.Rotation, unsaved, err error) {
	dir, unsaved := f.identities()
	if unsaved == nil {
		dir = filepath.Join(dir, folderName(addr))
	} else {
		dir = ""
	}
	rotation, err = wt.NewRotation(wt.RotationConfig{Dir: dir, Logger: log})
	if err != nil {
		return nil, nil, fmt.Errorf("%w; delete %s and new identities are made", err, dir)
	}
	return rotation, unsaved, nil
}

// folderName makes a name of a folder of an address.
func folderName(addr string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, addr)
}

// stored returns all development identities that brokers have stored.
func (f stateFlags) stored() ([]*wt.Identity, error) {
	dir, err := f.identities()
	if err != nil {
		return nil, err
	}
	paths, err := fs.Glob(os.DirFS(dir), "*/identity-*.pem")
	if err != nil {
		return nil, err
	}
	var list []*wt.Identity
	for _, path := range paths {
		identity, err := wt.LoadIdentity(filepath.Join(dir, filepath.FromSlash(path)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has expired, and was removed just now
		}
		if err != nil {
			return nil, err
		}
		list = append(list, identity)
	}
	return list, nil
}
