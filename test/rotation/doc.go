// Package rotation shows that connections and certificates are replaced under load
// without anybody noticing: no message lost, none twice, no call failed. The short
// form runs with all tests; `make rotation` and `make rotation-minutes` run the proof.
package rotation
