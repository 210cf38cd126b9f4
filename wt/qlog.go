package wt

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlogwriter"
)

// qlogTracer returns a tracer for quic.Config that writes each connection's
// events into a file of its own in dir. A file that cannot be made is logged, and
// its connection goes on without.
func qlogTracer(dir string, logger *slog.Logger) func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace {
	return func(_ context.Context, isClient bool, id quic.ConnectionID) qlogwriter.Trace {
		side := "server"
		if isClient {
			side = "client"
		}
		file, err := createIn(dir, fmt.Sprintf("%s_%s.sqlog", id, side))
		if err != nil {
			logger.Warn("no qlog", slog.Any("error", err))
			return nil
		}
		trace := qlogwriter.NewConnectionFileSeq(file, isClient, id)
		go trace.Run() // the connection waits for it when it closes its last recorder
		return trace
	}
}

// createIn makes a file that only its owner can read, and its directory if that
// is missing. What is written is kept back until there are some KiB of it.
func createIn(dir, name string) (io.WriteCloser, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &bufferedFile{Writer: bufio.NewWriter(file), file: file}, nil
}

type bufferedFile struct {
	*bufio.Writer
	file *os.File
}

// Close writes what is left and closes the file.
func (f *bufferedFile) Close() error {
	err := f.Flush()
	if closeErr := f.file.Close(); err == nil {
		err = closeErr
	}
	return err
}
