package envelope

// What the tests and benchmarks of the format need beside the API.

func Decode(text string) (Fields, error) {
	f, err := decode(text)
	if err == nil {
		err = checkHops(&f)
	}
	return f, err
}

func Encode(f Fields) string { return string(appendText(nil, &f)) }

func SignedBytes(trustDomain, subject, text string, payload []byte, request *Digest) []byte {
	return appendSigned(nil, trustDomain, subject, text, payload, request)
}

// StrictKey and Formed are what is checked beside crypto/ed25519.
func StrictKey(raw []byte) bool { return point(raw).strict() }

func Formed(signature []byte) bool { return formed((*[64]byte)(signature)) }
