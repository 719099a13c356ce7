package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// auditEnd bounds what the control plane waits for its last records at its end.
const auditEnd = 2 * time.Second

// noRoom is the server's code for a stream that may become larger than what is left
// of its disk.
const noRoom jetstream.ErrorCode = 10047

// openAudit makes the stream of the audit.
func (p *Plane) openAudit(ctx context.Context, js jetstream.JetStream) error {
	c := p.cfg.Mesh.Config
	_, err := makeStream(ctx, js, natsconf.Audit(p.space, c.Audit.MaxAge, c.Audit.MaxBytes, c.Replicas))
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.ErrorCode == noRoom {
		err = fmt.Errorf("%w: nats-server has no room for audit.max_bytes, %d", err, c.Audit.MaxBytes)
	}
	if err != nil {
		return fmt.Errorf("controlplane: stream of the audit: %w", err)
	}
	return nil
}

// audited logs a record and puts it in line for the audit stream. It waits for
// nobody.
func (p *Plane) audited(r audit.Record) {
	audit.Write(&p.log, r)
	p.metrics.decided(r)
	r.Time = p.clock()
	if r.Verdict == audit.Refused {
		p.denied.note(r.Reason, 1+r.Suppressed)
	}
	p.spool.Add(r)
}

func (p *Plane) sendAudit() { p.spool.Run(p.ctx.Done(), p.ctrl.IsConnected, p.sendBatch) }

func (p *Plane) sendBatch(data []byte) error {
	subj := p.space.Audit(agentid.Control, agentid.InstanceOf(p.speaker.Key.PublicKey()))
	msg, _, _, err := p.speaker.Message(subj, envelope.Fields{}, nil, data, nil)
	if err != nil {
		return err
	}
	return p.ctrl.PublishMsg(msg)
}

// endAudit sends what is left, once nothing more comes.
func (p *Plane) endAudit() {
	if p.speaker == nil || p.ctrl == nil || p.ctrl.Status() != nats.CONNECTED {
		return
	}
	p.spool.Flush(p.sendBatch)
	if err := p.ctrl.FlushTimeout(auditEnd); err != nil {
		p.log.Warn().Err(err).Msg("last records of the audit may be lost")
	}
}
