// Package audit implements the call log: one structured line for every message
// that was sent, verified or refused, every connect decision and every change
// of the control plane, on both sides of a call, joined by the correlation ID.
//
// A record says who, what, when, how long, and the verdict with its reason
// code. It never holds a payload, a header value, a token or a key's secret
// half; the payload is named by its digest and size.
//
// The same records go to the audit stream, in batches that their writer signs
// ([Batch], [Spool]).
package audit
