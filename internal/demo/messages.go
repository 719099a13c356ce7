package demo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/meshclient"
)

// messages is about a call of clerk that a thief holds: read by a pod of bank
// that was taken over, kept from the bank, and put back on the bus by a pod of
// clerk, which the broker lets publish in clerk's name and which has another key.
func messages() chapter {
	return chapter{
		setup: interceptOrder,
		steps: []step{
			{
				name:     "tampered-payload",
				tried:    "the order that clerk signed is delivered with another payload",
				expected: "bank refuses it and pays nothing",
				reason:   string(denial.BadSignature),
				run:      tamperedPayload,
			},
			{
				name:     "tampered-envelope",
				tried:    "it is delivered with another time, nonce, key, correlation, depth or chain in its envelope, one after the other",
				expected: "bank refuses each",
				reason:   string(denial.BadSignature),
				run:      tamperedEnvelope,
			},
			{
				name:     "moved-to-another-subject",
				tried:    "it is delivered unchanged on the subject of another scope, and on that of a call to one agent",
				expected: "those who handle them refuse it: the subject is signed as well",
				reason:   string(denial.BadSignature),
				run:      moved,
			},
			{
				name:     "replayed",
				tried:    "it is delivered unchanged, and then once more",
				expected: "bank takes the first and refuses the second; none of the attempts before used its nonce up",
				reason:   string(denial.Replayed),
				run:      replayed,
			},
			{
				name:     "replayed-to-another-replica",
				tried:    "a second instance of bank starts, which has seen nothing, and is sent the order",
				expected: "it refuses: the mesh remembers nonces for all of them",
				reason:   string(denial.Replayed),
				run:      replayedElsewhere,
			},
			{
				name:     "stale-timestamp",
				tried:    "clerk's pod signs an order of six minutes ago with its own, genuine key",
				expected: "bank refuses it",
				reason:   string(denial.Stale),
				run:      stale,
			},
		},
	}
}

// interceptOrder lets the pod of bank read an order, then puts the honest bank
// in its place.
func interceptOrder(ctx context.Context, s *stage) error {
	c, m, err := s.pay(ctx, "pay 30 to printer")
	if err != nil {
		return err
	}
	s.captured = m
	c.cancel()
	<-c.done
	if !errors.Is(c.err, context.Canceled) {
		return fmt.Errorf("clerk's call ended with %v", c.err)
	}
	if err := s.bankPod.untap(); err != nil {
		return err
	}
	return s.bank.handle("pay:invoice", paid)
}

func paid(context.Context, *meshclient.Request) ([]byte, error) { return []byte("paid"), nil }

// offer delivers a message by clerk's pod and returns why bank refused it.
func (s *stage) offer(ctx context.Context, m *nats.Msg) (string, error) {
	return s.refused(ctx, s.banks(), audit.Call, func() error { return s.clerkPod.send(m) })
}

func (s *stage) banks() []*actor {
	if s.bank2 == nil {
		return []*actor{s.bank}
	}
	return []*actor{s.bank, s.bank2}
}

func tamperedPayload(ctx context.Context, s *stage) (outcome, error) {
	m := copyOf(s.captured)
	s.tamper(m)
	reason, err := s.offer(ctx, m)
	if err != nil {
		return outcome{}, err
	}
	return outcome{"refused; the handler did not run", reason}, nil
}

func tamperedEnvelope(ctx context.Context, s *stage) (outcome, error) {
	u, err := envelope.Parse(envelope.Message{Subject: s.captured.Subject, Header: s.captured.Header, Data: s.captured.Data})
	if err != nil {
		return outcome{}, err
	}
	f := u.UnsafeFields()
	ts := f.Time.UnixMilli()
	for _, change := range []struct{ field, from, to string }{
		{"ts", strconv.FormatInt(ts, 10), strconv.FormatInt(ts+1000, 10)},
		{"nonce", f.Nonce, envelope.NewNonce()},
		{"key", f.Key, s.clerkPod.Key.PublicKey()},
		{"corr", f.Correlation, envelope.NewCorrelation()},
		{"hop", "0", "1"},
		{"tok", f.Token, s.mallory.Record.Tokens[0]},
	} {
		m := copyOf(s.captured)
		old := m.Header.Get(envelope.HeaderEnvelope)
		text := strings.Replace(old, ";"+change.field+"="+change.from, ";"+change.field+"="+change.to, 1)
		if text == old {
			return outcome{}, fmt.Errorf("the envelope has no %s=%s", change.field, change.from)
		}
		m.Header[envelope.HeaderEnvelope] = []string{text}
		reason, err := s.offer(ctx, m)
		if err != nil {
			return outcome{}, fmt.Errorf("%s changed: %w", change.field, err)
		}
		if reason != string(denial.BadSignature) {
			return outcome{"another " + change.field + " was refused in another way", reason}, nil
		}
	}
	return outcome{"six of six refused; the handler did not run", string(denial.BadSignature)}, nil
}

func moved(ctx context.Context, s *stage) (outcome, error) {
	m := copyOf(s.captured)
	m.Subject = s.clerkPod.Space.Call(s.clerk.ID(), "read.logs")
	reason, err := s.refused(ctx, s.readers(), audit.Call, func() error { return s.clerkPod.send(m) })
	if err != nil || reason != string(denial.BadSignature) {
		return outcome{"refused by a reader", reason}, err
	}
	m.Subject = s.clerkPod.Space.Ask(s.clerk.ID(), s.bank.ID(), "pay.invoice")
	if reason, err = s.offer(ctx, m); err != nil {
		return outcome{}, err
	}
	return outcome{"a reader refused the one, bank the other; no handler ran", reason}, nil
}

func replayed(ctx context.Context, s *stage) (outcome, error) {
	before := s.bank.ran.Load()
	if err := s.clerkPod.send(s.captured); err != nil {
		return outcome{}, err
	}
	if err := eventually(ctx, "the first delivery of the order", func() bool { return s.bank.ran.Load() > before }); err != nil {
		return outcome{}, err
	}
	reason, err := s.offer(ctx, s.captured)
	if err != nil {
		return outcome{}, err
	}
	return outcome{"paid once; the copy was refused", reason}, nil
}

// copies is how often the order is sent until the queue group picks the second
// instance: it fails to once in 2^64.
const copies = 64

func replayedElsewhere(ctx context.Context, s *stage) (outcome, error) {
	dir, err := s.enrol(ctx, "bank", noRights, false)
	if err != nil {
		return outcome{}, err
	}
	if s.bank2, err = s.connect(ctx, dir); err != nil {
		return outcome{}, err
	}
	if err := s.bank2.handle("pay:invoice", paid); err != nil {
		return outcome{}, err
	}
	from, before := s.journal.mark(), ran(s.banks())
	fresh := func(l line) bool {
		return l.has("audit", string(audit.Call), "verdict", string(audit.Refused), "agent", "bank", "self", s.bank2.Instance().String())
	}
	for range copies {
		if _, err := s.offer(ctx, s.captured); err != nil {
			return outcome{}, err
		}
		l, ok, _ := s.journal.find(from, fresh)
		if !ok {
			continue
		}
		if n := ran(s.banks()) - before; n != 0 {
			return outcome{}, fmt.Errorf("bank paid %d times more", n)
		}
		return outcome{"bank/" + s.bank2.Instance().String() + " refused it at first sight", l.text("reason")}, nil
	}
	return outcome{}, errors.New("the queue group never picked the second instance")
}

func stale(ctx context.Context, s *stage) (outcome, error) {
	old := s.clerkPod.Speaker
	old.Clock = func() time.Time { return time.Now().Add(-6 * time.Minute) }
	subj := s.clerkPod.Space.Call(s.clerk.ID(), "pay.invoice")
	m, _, _, err := old.Message(subj, envelope.Fields{Token: s.clerkPod.Record.Tokens[0]}, nil, []byte("pay 40 to printer"), nil)
	if err != nil {
		return outcome{}, err
	}
	// The control: the same order of now is paid.
	if err := s.clerkPod.works(ctx, "pay:invoice", s.clerkPod.Record.Tokens[0]); err != nil {
		return outcome{}, err
	}
	reason, err := s.offer(ctx, m)
	if err != nil {
		return outcome{}, err
	}
	return outcome{"refused, while the same order of now is paid", reason}, nil
}
