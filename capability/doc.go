// Package capability implements what an agent may do and how it lends that to
// another: scopes, the authority's signing keys, passports, tokens and chains.
// The normative text is docs/spec/capability.md.
//
// Five laws:
//
//   - A [Scope] is literal. There is no wildcard and no all-style shortcut, so
//     "is this allowed" is a look-up and never a match.
//   - A chain only narrows. Every delegated token holds what its parent lets be
//     passed on, or less, for no longer and with fewer delegations left.
//   - [Verify] believes nobody. [Delegate] refuses up front what Verify would
//     refuse, for the delegator's sake alone: a forger signs by hand.
//   - A token is worth something only to an instance of its holder. A [Chain]
//     says what [Chain.Holder] may do; whether the sender is that holder is for
//     the caller to compare.
//   - Nothing means nothing. Zero values, nil pointers, empty lists and missing
//     members authorise nobody.
//
// The lifecycle: the offline root certifies online signing keys ([CertifyKey]);
// verifiers pin the roots and load the certificates ([NewKeyring]). A records
// key states whose an instance's keys are ([IssuePassport]), a tokens key issues
// root tokens ([IssueRoot]), an instance lends with [Delegate], offline. A
// receiver runs [Verify] once for each chain digest and [Chain.Check] for each
// use, because standing changes: Check asks a [Directory] whether everybody in
// the chain still has it.
//
// Nothing here reads the clock or keeps state; times are compared in whole Unix
// seconds. Refusals are denials with a stable reason. All values are immutable
// and safe for concurrent use.
package capability
