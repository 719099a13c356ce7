package meshclient

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// renewing is what others than the tending goroutine have to say, and are told,
// about the renewal of the certificate.
type renewing struct {
	mu    sync.Mutex
	order time.Time // when the control plane wants one; zero: it does not
	err   error     // why the last try failed
}

func (r *renewing) tried(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// failure returns why the last try failed, or nil.
func (r *renewing) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// orderCame is why the tending goroutine wakes up when it has to look later.
const orderCame = "the control plane wants a rotation"

// takeRotate takes the control plane's word that certificate and connection are to
// be replaced, and waits as long as it says, so that a fleet does not do that at
// once.
func (m *Mesh) takeRotate(v *envelope.Verified) error {
	var n wire.RotateNote
	if len(v.Data()) > callNoteMost || json.Unmarshal(v.Data(), &n) != nil || n.DelayMS < 0 || n.DelayMS > wire.RotateMost.Milliseconds() {
		return denial.New(denial.BadInput, "note does not parse")
	}
	if n.Instance != m.info.Instance {
		return nil
	}
	at := time.Now().Add(time.Duration(n.DelayMS) * time.Millisecond)
	m.renewing.mu.Lock()
	if o := m.renewing.order; o.IsZero() || at.Before(o) {
		m.renewing.order = at
	}
	m.renewing.mu.Unlock()
	m.poke(orderCame)
	return nil
}

// ordered is when the control plane wants a renewal, or zero.
func (m *Mesh) ordered() time.Time {
	m.renewing.mu.Lock()
	defer m.renewing.mu.Unlock()
	return m.renewing.order
}

// orderDue is when the tending goroutine has to see to an order: not before a
// renewal that failed is tried again.
func (m *Mesh) orderDue() time.Time {
	at := m.ordered()
	if again := m.tended.renewal.again; !at.IsZero() && at.Before(again) {
		return again
	}
	return at
}

// carriedOut notes that certificate and key were replaced; an order that came since
// then stays.
func (m *Mesh) carriedOut(order time.Time) {
	m.renewing.mu.Lock()
	defer m.renewing.mu.Unlock()
	if m.renewing.order.Equal(order) {
		m.renewing.order = time.Time{}
	}
}

// forAnother reports whether a note to rotate is for another instance of the agent.
// It reads what nobody signed, which at most keeps one from being judged.
func (m *Mesh) forAnother(data []byte) bool {
	var n wire.RotateNote
	return len(data) <= callNoteMost && json.Unmarshal(data, &n) == nil && !n.Instance.IsZero() && n.Instance != m.info.Instance
}
