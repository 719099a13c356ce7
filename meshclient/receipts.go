package meshclient

import "time"

// confirmAfter is how long what came is confirmed later, together with what comes
// meanwhile.
const confirmAfter = 100 * time.Millisecond

// receipts paces what a sender is told of the parts that came: soon, together with
// what comes meanwhile, and at once when that is much. It is used by one goroutine.
type receipts struct {
	soon     *time.Timer
	promised bool // soon runs
	fresh    int  // bytes that were not confirmed
}

func newReceipts() receipts { return receipts{soon: stopped()} }

// promise has soon fire.
func (r *receipts) promise() {
	if !r.promised {
		r.promised = true
		r.soon.Reset(confirmAfter)
	}
}

// many reports whether so much came that the sender may wait for room.
func (r *receipts) many() bool { return r.fresh >= streamBytes/4 }

// given says that all that came is being confirmed.
func (r *receipts) given() {
	r.promised, r.fresh = false, 0
	r.soon.Stop()
}
