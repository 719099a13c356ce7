package heartbeat

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
)

// Defaults of the intervals: an instance expires after three missed beats.
const (
	DefaultInterval = 30 * time.Second
	DefaultTimeout  = 3 * DefaultInterval
)

// jitterShare is how much shorter than the interval a pause may be, as one part
// in so many. It only shortens, so that three beats always fit into three
// intervals, and spreads the beats of instances that started together.
const jitterShare = 10

// SenderConfig says who beats and how. All fields but Interval, Prompt, InFlight
// and Client are required.
type SenderConfig struct {
	Agent    agentid.ID
	Instance agentid.Instance
	Epoch    string // of the connection that the beats go out on
	Client   string // client version
	Interval time.Duration
	// Prompt asks for a beat at once, before the next one is due; nil for never.
	Prompt <-chan struct{}
	// InFlight reports how many calls are being handled; nil means none.
	InFlight func() int
	// Send signs and publishes one beat. It is called by one goroutine at a
	// time and MUST return when its context ends.
	Send func(ctx context.Context, b Beat) error
	Log  zerolog.Logger
}

// Sender sends the beats of one session: one connect under one epoch.
type Sender struct {
	cfg     SenderConfig
	session Session
	cancel  context.CancelFunc
	done    chan struct{}

	leaving  sync.Mutex // serialises Leave
	left     bool
	sequence uint64 // the goroutine's until done is closed, then under leaving
}

// NewSender starts a session and returns at once; the first beat is on its way.
func NewSender(cfg SenderConfig) (*Sender, error) {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Interval < 0 {
		return nil, errors.New("heartbeat: interval must be positive")
	}
	if cfg.Send == nil {
		return nil, errors.New("heartbeat: sender needs a Send function")
	}
	if cfg.InFlight == nil {
		cfg.InFlight = func() int { return 0 }
	}
	s := &Sender{cfg: cfg, session: NewSession(), done: make(chan struct{})}
	// What would be refused on arrival is refused here, not every 30 s.
	if _, err := s.beat(1, Up).check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.loop(ctx)
	return s, nil
}

// Session returns the random name of this session.
func (s *Sender) Session() Session { return s.session }

func (s *Sender) beat(sequence uint64, state State) Beat {
	return Beat{
		Agent: s.cfg.Agent, Instance: s.cfg.Instance, Session: s.session, Epoch: s.cfg.Epoch,
		Sequence: sequence, State: state, InFlight: uint32(min(max(0, s.cfg.InFlight()), math.MaxUint32)), Client: s.cfg.Client,
	}
}

func (s *Sender) loop(ctx context.Context) {
	defer close(s.done)
	failing := false
	for {
		err := s.send(ctx, Up)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			s.cfg.Log.Warn().Err(err).Msg("heartbeat not sent")
		case err == nil && failing:
			s.cfg.Log.Info().Msg("heartbeat sent again")
		}
		failing = err != nil
		pause := time.NewTimer(s.cfg.Interval - rand.N(s.cfg.Interval/jitterShare+1))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-s.cfg.Prompt:
			pause.Stop()
		case <-pause.C:
		}
	}
}

// send gives a beat one interval to go out: the next one replaces it.
func (s *Sender) send(ctx context.Context, state State) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Interval)
	defer cancel()
	s.sequence++ // also when it fails: what got out anyhow must not be reused
	return s.cfg.Send(ctx, s.beat(s.sequence, state))
}

// Leave stops the beats, waits until none is on its way, and sends that this
// session is leaving; the instance leaves with its last one. After an error it
// may be called again; once it has succeeded it does nothing more.
func (s *Sender) Leave(ctx context.Context) error {
	s.Close()
	s.leaving.Lock()
	defer s.leaving.Unlock()
	if s.left {
		return nil
	}
	if err := s.send(ctx, Leaving); err != nil {
		return err
	}
	s.left = true
	return nil
}

// Close stops the beats without a word and waits for the goroutine. It may be
// called more than once.
func (s *Sender) Close() {
	s.cancel()
	<-s.done
}
