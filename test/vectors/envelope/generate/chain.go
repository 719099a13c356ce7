package main

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// The authority of the vectors and the chains that it issued: root tokens alone,
// since docs/spec/capability.md has vectors of its own.

const second = 1000

var (
	rootKey   = account("authority root")
	tokensKey = account("tokens")
)

const jwtHeader = `{"typ":"JWT","alg":"ed25519-nkey"}`

func document(by key, payload string) string {
	signed := b64([]byte(jwtHeader)) + "." + b64([]byte(payload))
	return signed + "." + b64(by.sign([]byte(signed)))
}

var certificates = []string{document(rootKey, fmt.Sprintf(
	`{"kind":"signing-key","iss":%q,"iat":%d,"nkey":%q,"purpose":"tokens","nbf":%d,"exp":%d}`,
	rootKey.public(), t0/second-3600, tokensKey.public(), t0/second-3600, t0/second+90*24*3600))}

var (
	chainTexts []string              // all chains, in the order in which they were issued
	holders    = map[string]string{} // of chains, by digest
)

// chain issues a root token for a day and returns the digest of the chain that it
// is.
func chain(holder string, scopes ...string) string {
	return chainUntil(t0/second+24*3600, holder, scopes...)
}

func chainUntil(exp int64, holder string, scopes ...string) string {
	jti := sha256.Sum256([]byte("sealmesh vector token of " + holder + " over " + strings.Join(scopes, " ")))
	text := document(tokensKey, fmt.Sprintf(
		`{"kind":"token","iss":%q,"iat":%d,"jti":%q,"agent":%q,"capabilities":["%s"],"delegatable":[],"depth":0,"nbf":%d,"exp":%d}`,
		tokensKey.public(), t0/second-3600, b64(jti[:16]), holder, strings.Join(scopes, `","`), t0/second-3600, exp))
	chainTexts = append(chainTexts, text)
	holders[digest([]byte(text))] = holder
	return digest([]byte(text))
}

// What everybody holds. The chains of orchestrator and scout are those on whose
// behalf others call.
var (
	writerChain  = chain("writer", "publish:builds.done", "read:logs")
	readerChain  = chain("reader", "handle:read:logs")
	helperChain  = chain("helper", "read:logs")
	metricsChain = chain("writer", "read:metrics")
	orchestrator = chain("orchestrator", "handle:read:logs", "read:logs", "write:reports")
	scoutChain   = chain("scout", "read:metrics")
	takenBack    = chain("writer", "read:logs", "read:metrics")
	ended        = chainUntil(t0/second-60, "helper", "read:logs", "read:metrics")
	callers      = func() (out [8]string) { // a call tree of agents
		for i := range out {
			out[i] = chain("caller-"+itoa(int64(i)), "read:logs")
		}
		return out
	}()
	helperNews = chain("helper", "publish:builds.done")
	lapsed     = chainUntil(lapse/second, "writer", "publish:builds.done", "publish:builds.failed")
)

// lapse is when the right to publish ends under which some events are stored.
const lapse = t0 - t0%second + 10*minute
