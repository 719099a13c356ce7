package epochlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// The files of a log, in the directory that the control plane keeps its state in.
const (
	File     = "epochs.log"
	LockFile = "epochs.lock"
)

// Behind is how long what nobody waits for may stay in memory alone.
const Behind = time.Second

const (
	// sizeMost is the longest file that is read, in bytes: some million records.
	sizeMost = 256 << 20
	// slack is by how many bytes the file may grow before it is written anew, at
	// the least; beyond that it may double.
	slack = 1 << 20
	// complainEvery is how often it is said that the file cannot be written.
	complainEvery = time.Minute
)

// Log is an open log. It is safe for concurrent use.
type Log struct {
	path string
	log  zerolog.Logger
	lock *os.File
	wake chan struct{}
	done chan struct{}
	wg   sync.WaitGroup
	once sync.Once

	mu    sync.Mutex
	known map[string]registry.Floor
	dirty map[string]bool // not in the file
	said  uint64          // how often something was remembered

	writing sync.Mutex // held by whoever works on the file
	file    *os.File
	size    int64  // as it was found or left
	compact int64  // size after the file was written anew last
	kept    uint64 // of said: so many are on the disk
	broken  bool   // a write failed: what the file holds is not known
	blamed  time.Time
}

var _ registry.Memory = (*Log)(nil)

// Open opens the log in a directory, and makes both where they are missing. That
// the file cannot be written, or cannot be read to its end, is an [*Error] with a
// hint; one that others can use is a [*pki.ModeError].
func Open(dir string, log zerolog.Logger) (*Log, error) {
	l := &Log{
		path: filepath.Join(dir, File), log: log, wake: make(chan struct{}, 1), done: make(chan struct{}),
		known: map[string]registry.Floor{}, dirty: map[string]bool{},
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unwritable(l.path, err)
	}
	var err error
	if l.lock, err = os.OpenFile(filepath.Join(dir, LockFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, unwritable(l.path, err)
	}
	if err := l.exclusively(l.load); err != nil {
		_ = l.lock.Close()
		return nil, err
	}
	l.wg.Go(l.follow)
	return l, nil
}

// Floors implements registry.Memory.
func (l *Log) Floors() map[string]registry.Floor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.known)
}

// Remember implements registry.Memory.
func (l *Log) Remember(key string, f registry.Floor) {
	if line := appendLine(nil, key, f); !reads(line) {
		// It would make the whole file unreadable.
		l.log.Error().Str("key", key).Str("status", f.Status).Msg("record has no form that the log of epochs keeps")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.known[key]
	now := was.Over(key, f)
	if now == was {
		return
	}
	l.known[key], l.dirty[key] = now, true
	l.said++
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Keep implements registry.Memory. Those who wait at the same time share one look
// at the disk.
func (l *Log) Keep() error {
	l.mu.Lock()
	said := l.said
	l.mu.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.kept >= said {
		return nil // by somebody who waited before
	}
	return l.exclusively(func() error { return l.flush(true) })
}

// Close writes down what is left and closes the file.
func (l *Log) Close() error {
	var err error
	l.once.Do(func() {
		close(l.done)
		l.wg.Wait()
		err = l.Keep()
		l.writing.Lock()
		defer l.writing.Unlock()
		err = errors.Join(err, l.file.Close(), l.lock.Close())
	})
	return err
}

// follow writes down what nobody waits for.
func (l *Log) follow() {
	for {
		select {
		case <-l.done:
			return
		case <-l.wake:
		}
		select {
		case <-l.done:
			return
		case <-time.After(Behind):
		}
		l.writing.Lock()
		err := l.exclusively(func() error { return l.flush(false) })
		if err != nil && time.Since(l.blamed) > complainEvery {
			l.blamed = time.Now()
			l.log.Error().Err(err).Msg("the log of epochs cannot be written")
		}
		l.writing.Unlock()
	}
}

// exclusively runs f while no other process works on the file.
func (l *Log) exclusively(f func() error) error {
	if err := lock(l.lock); err != nil {
		return unwritable(l.path, err)
	}
	return errors.Join(f(), unlock(l.lock))
}

// load reads the file, or makes one, and leaves it without lines that are
// outdated and without what a crash left of a line.
func (l *Log) load() error {
	c, size, err := l.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.log.Info().Str("path", l.path).Msg("the log of epochs begins with what the registry holds")
		return l.rewrite()
	case err != nil:
		return err
	}
	l.known = c.floors
	if int64(c.good) < size {
		l.log.Warn().Str("path", l.path).Int64("bytes", size-int64(c.good)).Msg("the log of epochs ended within a line: dropped")
	}
	if int64(c.good) < size || c.lines > len(c.floors) {
		return l.rewrite()
	}
	return l.reopen()
}

// read returns what the file holds and how long it is.
func (l *Log) read() (c content, size int64, err error) {
	f, err := os.Open(l.path)
	if err != nil {
		return c, 0, fmt.Errorf("epochlog: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return c, 0, fmt.Errorf("epochlog: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return c, 0, unreadable(l.path, 0, errors.New("is no regular file"))
	case info.Mode().Perm()&^0o600 != 0 && runtime.GOOS != "windows":
		return c, 0, &pki.ModeError{Path: l.path, Mode: info.Mode()}
	case info.Size() > sizeMost:
		return c, 0, unreadable(l.path, 0, fmt.Errorf("is longer than %d bytes", sizeMost))
	}
	b, err := io.ReadAll(io.LimitReader(f, sizeMost+1))
	if err != nil {
		return c, 0, unreadable(l.path, 0, err)
	}
	c, err = parse(b)
	var at *lineError
	if errors.As(err, &at) {
		return c, 0, unreadable(l.path, at.line, at.error)
	}
	return c, int64(len(b)), nil
}

// reopen opens the file for writing.
func (l *Log) reopen() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return unwritable(l.path, err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return unwritable(l.path, err)
	}
	if l.file != nil {
		_ = l.file.Close() // everything in it was written or given up
	}
	l.file, l.size, l.compact = f, info.Size(), max(l.compact, info.Size())
	return nil
}

// flush writes down what is not in the file, and has it reach the disk where sync
// is set.
func (l *Log) flush(sync bool) error {
	l.mu.Lock()
	dirty, said := l.dirty, l.said
	l.dirty = map[string]bool{}
	var text []byte
	for _, key := range slices.Sorted(maps.Keys(dirty)) {
		text = appendLine(text, key, l.known[key])
	}
	l.mu.Unlock()
	err := l.write(text, sync)
	if err != nil {
		l.broken = true
		l.mu.Lock()
		maps.Copy(l.dirty, dirty)
		l.mu.Unlock()
		l.again()
		return err
	}
	if sync {
		l.kept = said
	}
	return nil
}

// again has the follower try once more.
func (l *Log) again() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Log) write(text []byte, sync bool) error {
	same, err := l.current()
	if err != nil {
		return err
	}
	if l.broken || l.size+int64(len(text)) > 2*l.compact+slack {
		// What other processes wrote is taken along.
		return l.merge()
	}
	if !same {
		if err := l.reopen(); err != nil {
			return err
		}
	}
	if err := l.trim(); err != nil {
		return err
	}
	if len(text) > 0 {
		if _, err := l.file.Write(text); err != nil {
			return unwritable(l.path, err)
		}
		l.size += int64(len(text))
	}
	if sync {
		if err := l.file.Sync(); err != nil {
			return unwritable(l.path, err)
		}
	}
	return nil
}

// current reports whether the open file is still the one that bears the name:
// another process may have written it anew. One that was taken away is made again
// of what is known.
func (l *Log) current() (bool, error) {
	named, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		l.log.Error().Str("path", l.path).Msg("the log of epochs was taken away: it is made again of what is known here")
		l.broken = true
		return false, nil
	}
	if err != nil {
		return false, unwritable(l.path, err)
	}
	open, err := l.file.Stat()
	if err != nil {
		return false, unwritable(l.path, err)
	}
	l.size = named.Size()
	return os.SameFile(named, open), nil
}

// trim cuts off what a process that died has left of a line, before a whole one
// is written behind it.
func (l *Log) trim() error {
	end := l.size
	b := make([]byte, 1)
	for ; end > int64(len(header)); end-- {
		if _, err := l.file.ReadAt(b, end-1); err != nil {
			return unwritable(l.path, err)
		}
		if b[0] == '\n' {
			break
		}
		if l.size-end > lineMost {
			return unreadable(l.path, 0, errors.New("does not end with a line"))
		}
	}
	if end == l.size {
		return nil
	}
	if err := l.file.Truncate(end); err != nil {
		return unwritable(l.path, err)
	}
	l.size = end
	return nil
}

// merge writes the file anew, of what it holds and what is known here.
func (l *Log) merge() error {
	c, _, err := l.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.mu.Lock()
	for key, f := range c.floors {
		l.known[key] = l.known[key].Over(key, f)
	}
	l.mu.Unlock()
	return l.rewrite()
}

// rewrite replaces the file by one of what is known, which is on the disk when
// rewrite returns.
func (l *Log) rewrite() error {
	l.mu.Lock()
	text := []byte(header)
	for _, key := range slices.Sorted(maps.Keys(l.known)) {
		text = appendLine(text, key, l.known[key])
	}
	l.mu.Unlock()
	if err := pki.ReplaceSecret(l.path, text); err != nil {
		return unwritable(l.path, err)
	}
	l.broken, l.compact = false, int64(len(text))
	return l.reopen()
}
