package audit

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// Subject is how a user is named in the log: 64 hex digits of
// HMAC-SHA256(subject key, enc("human", clientId, humanId)). The same user always
// has the same, and without the key it tells nothing.
func (l *Log) Subject(client user.ClientID, human user.HumanID) string {
	var room [256]byte // for ids as they are in use
	m := appendField(room[:0], "human")
	m = appendField(m, string(client))
	sum := l.subject.Sum(appendField(m, string(human)))
	var text [2 * len(sum)]byte
	hex.Encode(text[:], sum[:])
	return string(text[:])
}

func appendField(b []byte, field string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(field))), field...)
}
