package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/meshclient"
)

// calling is a call that somebody waits for.
type calling struct {
	cancel context.CancelFunc
	done   chan struct{}
	reply  *meshclient.Reply
	err    error
}

// pay has clerk order a payment and returns the call and what bank's pod, which
// was taken over, reads of it.
func (s *stage) pay(ctx context.Context, order string, opts ...meshclient.CallOption) (*calling, *nats.Msg, error) {
	c := &calling{done: make(chan struct{})}
	callCtx, cancel := context.WithCancel(ctx)
	c.cancel = cancel
	go func() {
		defer close(c.done)
		c.reply, c.err = s.clerk.Call(callCtx, "pay:invoice", []byte(order), opts...)
	}()
	m, err := s.bankPod.catch(ctx)
	if err != nil {
		cancel()
	}
	return c, m, err
}

// replies is about who may answer. Nobody but bank's pod handles pay:invoice
// while it runs, so every order goes through the hands of a thief.
func replies() chapter {
	return chapter{
		setup: func(_ context.Context, s *stage) error { return s.bankPod.tap("pay:invoice") },
		steps: []step{
			{
				name:     "forged-reply",
				tried:    "while clerk waits for bank, mallory publishes an answer in bank's name",
				expected: "the broker refuses, and bank's own answer still arrives",
				reason:   permissionsViolation,
				run:      forgedReply,
			},
			{
				name:     "reply-from-wrong-agent",
				tried:    "mallory, told of clerk's order by a pod of bank, answers it in its own name, signed and bound to the request",
				expected: "clerk drops it and goes on waiting; bank's own answer arrives",
				reason:   string(denial.WrongResponder),
				run:      wrongResponder,
			},
		},
	}
}

// settle has the pod answer the call as it should and checks that clerk gets
// just that.
func (s *stage) settle(ctx context.Context, c *calling, m *nats.Msg) error {
	defer c.cancel()
	if err := s.bankPod.reply(m, "paid"); err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return fmt.Errorf("clerk still waits: %w", ctx.Err())
	}
	switch {
	case c.err != nil:
		return fmt.Errorf("clerk's call failed: %w", c.err)
	case c.reply.From != s.bank.ID() || string(c.reply.Data) != "paid":
		return fmt.Errorf("clerk took %q from %s for the answer", c.reply.Data, c.reply.From)
	}
	return nil
}

func forgedReply(ctx context.Context, s *stage) (outcome, error) {
	c, m, err := s.pay(ctx, "pay 10 to printer", meshclient.To("bank"))
	if err != nil {
		return outcome{}, err
	}
	defer c.cancel()
	v, err := s.mallory.read(m)
	if err != nil {
		return outcome{}, err
	}
	f, digest := v.Fields(), v.Digest()
	subj := s.mallory.Space.Reply(s.bank.ID(), f.From, v.Instance(), f.Nonce)
	forged, _, _, err := s.mallory.Speaker.Message(subj, envelope.Fields{
		Correlation: f.Correlation, Parent: f.Nonce, Hop: f.Hop, Token: s.mallory.Record.Tokens[0],
	}, nil, []byte("paid, trust me"), &digest)
	if err != nil {
		return outcome{}, err
	}
	if err := s.mallory.barred(ctx, subj, func() error { return s.mallory.nc.PublishMsg(forged) }); err != nil {
		return outcome{}, err
	}
	if err := s.settle(ctx, c, m); err != nil {
		return outcome{}, err
	}
	return outcome{"the server refused the publish; clerk got bank's answer", permissionsViolation}, nil
}

func wrongResponder(ctx context.Context, s *stage) (outcome, error) {
	c, m, err := s.pay(ctx, "pay 20 to printer", meshclient.To("bank"))
	if err != nil {
		return outcome{}, err
	}
	defer c.cancel()
	reason, err := s.refused(ctx, []*actor{s.clerk}, audit.Reply, func() error { return s.mallory.reply(m, "paid, trust me") })
	if err != nil {
		return outcome{}, err
	}
	select {
	case <-c.done:
		return outcome{}, errors.New("the forged answer ended clerk's call")
	default:
	}
	if err := s.settle(ctx, c, m); err != nil {
		return outcome{}, err
	}
	return outcome{"clerk logged the refusal and got bank's answer", reason}, nil
}
