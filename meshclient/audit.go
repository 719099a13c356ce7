package meshclient

import (
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// audited logs a record and puts it in line for the audit stream. It never waits:
// an audit that is full or out of reach holds up no call, and says afterwards how
// many records it lacks.
func (m *Mesh) audited(r audit.Record) {
	audit.Write(&m.log, r)
	if r.Kind == audit.Note && r.Verdict != audit.Refused && r.Scope != wire.NoteDelegation {
		return // one record for each would say nothing that the call's does not
	}
	r.Time = m.cfg.clock()
	m.spool.Add(r)
}

// sendAudit sends batches until the Mesh is closed.
func (m *Mesh) sendAudit() {
	m.spool.Run(m.ctx.Done(), func() bool {
		nc := m.conn()
		return nc != nil && nc.IsConnected()
	}, m.sendBatch)
}

// sendBatch signs one batch and hands it to the server. The stream acknowledges
// nothing.
func (m *Mesh) sendBatch(data []byte) error {
	msg, _, _, err := m.speaker.Message(m.space.Audit(m.info.Agent, m.info.Instance), envelope.Fields{}, nil, data, nil)
	if err != nil {
		return err
	}
	return m.conn().PublishMsg(msg)
}
