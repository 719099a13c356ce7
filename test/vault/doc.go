// Package vault implements the tests of Vault as the issuer of agents'
// certificates, against the real server:
//
//	make test-vault
//
// That builds the server from the module in server/, once, into a folder of the
// user's cache; it takes a quarter of an hour and two gigabytes the first time.
// Without the flag -vault, which names the program, everything is left out. The
// server runs unsealed by a key that the tests hold, keeps its data in memory, and
// is set up by the very commands that docs/operations.md shows.
package vault
