package natsserver

import (
	"fmt"
	"sync"

	"github.com/rs/zerolog"
)

// logger routes nats-server's log into zerolog. The texts hold what strangers
// sent (client names, subjects); zerolog's encoding keeps that one field of one
// line.
type logger struct {
	log   zerolog.Logger
	fatal chan error // the first fatal error; capacity one
	once  sync.Once
}

func newLogger(log zerolog.Logger) *logger {
	return &logger{log: log, fatal: make(chan error, 1)}
}

func (l *logger) write(at zerolog.Level, level, format string, v []any) {
	e := l.log.WithLevel(at)
	if l.log.GetLevel() > at {
		return // WithLevel does not ask, and formatting costs
	}
	e.Str("nats_level", level).Str("text", fmt.Sprintf(format, v...)).Msg("nats-server")
}

func (l *logger) Noticef(format string, v ...any) { l.write(zerolog.DebugLevel, "notice", format, v) }
func (l *logger) Warnf(format string, v ...any)   { l.write(zerolog.DebugLevel, "warning", format, v) }
func (l *logger) Debugf(format string, v ...any)  { l.write(zerolog.DebugLevel, "debug", format, v) }
func (l *logger) Errorf(format string, v ...any)  { l.write(zerolog.ErrorLevel, "error", format, v) }

// Tracef drops the protocol trace: it holds auth tokens and payloads.
func (l *logger) Tracef(string, ...any) {}

// Fatalf does not end the process, as it would in a nats-server of its own: the
// error becomes that of Start.
func (l *logger) Fatalf(format string, v ...any) {
	l.write(zerolog.ErrorLevel, "fatal", format, v)
	l.once.Do(func() { l.fatal <- fmt.Errorf("natsserver: "+format, v...) })
}
