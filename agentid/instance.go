package agentid

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// InstanceLen is the length of an instance ID in characters: forty bits.
const InstanceLen = 8

// alphabet is Crockford's base 32 in lower case: no i, l, o, u, so that an
// operator can read an ID over the telephone.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// Instance names one running copy of an agent. It is unique within its agent;
// the registry refuses a second key that happens to give the same one.
type Instance struct{ s string }

// InstanceOf derives the instance ID from a public nkey ("U…"): the first forty
// bits of its SHA-256. The key itself is not validated here.
func InstanceOf(publicKey string) Instance {
	if publicKey == "" {
		return Instance{}
	}
	return Instance{ShortHash([]byte(publicKey))}
}

// ShortHash returns eight characters naming b: the first forty bits of its
// SHA-256 in the alphabet of instance IDs. It is a name for people, not a
// commitment.
func ShortHash(b []byte) string {
	sum := sha256.Sum256(b)
	var v uint64
	for _, c := range sum[:5] {
		v = v<<8 | uint64(c)
	}
	var out [InstanceLen]byte
	for i := InstanceLen - 1; i >= 0; i-- {
		out[i] = alphabet[v&31]
		v >>= 5
	}
	return string(out[:])
}

// ParseInstance accepts s only if it is exactly an instance ID.
func ParseInstance(s string) (Instance, error) {
	if len(s) != InstanceLen {
		return Instance{}, fmt.Errorf("%w instance ID %q: must have %d characters", ErrInvalid, clip(s), InstanceLen)
	}
	for i := range len(s) {
		if strings.IndexByte(alphabet, s[i]) < 0 {
			return Instance{}, fmt.Errorf("%w instance ID %q: only digits and a-z without i, l, o, u are allowed", ErrInvalid, s)
		}
	}
	return Instance{s}, nil
}

// String returns the instance ID; the zero value gives the empty string.
func (i Instance) String() string { return i.s }

// IsZero reports whether i names no instance.
func (i Instance) IsZero() bool { return i.s == "" }

// MarshalText implements encoding.TextMarshaler.
func (i Instance) MarshalText() ([]byte, error) { return []byte(i.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the strictness of
// ParseInstance.
func (i *Instance) UnmarshalText(b []byte) error {
	v, err := ParseInstance(string(b))
	if err != nil {
		return err
	}
	*i = v
	return nil
}

// ParseTarget reads what an operator names: an agent ("reader") or one of its
// instances ("reader/7f3c2k9q"); the instance is zero in the first case.
func ParseTarget(s string) (ID, Instance, error) {
	name, inst, found := strings.Cut(s, "/")
	id, err := Parse(name)
	if err != nil {
		return ID{}, Instance{}, err
	}
	if !found {
		return id, Instance{}, nil
	}
	if inst == "" {
		return ID{}, Instance{}, fmt.Errorf("%w target %q: %w", ErrInvalid, clip(s), errors.New("nothing after the slash"))
	}
	i, err := ParseInstance(inst)
	if err != nil {
		return ID{}, Instance{}, err
	}
	return id, i, nil
}
