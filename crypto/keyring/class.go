package keyring

import "slices"

// Class says what a key is for. The set is closed.
type Class string

const (
	Public  Class = "public"  // data key: public boxes, the index, sessions
	Private Class = "private" // data key: access tokens
	Intent  Class = "intent"  // data key: exchanges under way
	Index   Class = "index"   // row ids and session ids; lives as long as the store
	Audit   Class = "audit"   // subjects and signatures of the audit log; lives as long as the logs
)

// classes lists the closed set; the place of a class plus one is its code in the
// blob.
var classes = []Class{Public, Private, Intent, Index, Audit}

// code is the class in the blob, 0 for one that does not exist.
func (c Class) code() byte { return byte(slices.Index(classes, c) + 1) }

func classOf(code byte) Class {
	if code == 0 || int(code) > len(classes) {
		return ""
	}
	return classes[code-1]
}

// data reports whether keys of c seal records, can be rotated, and leave the
// keyring.
func (c Class) data() bool { return c == Public || c == Private || c == Intent }

// State is how far the life of a key has gone. It only ever goes forward:
//
//	active → decrypt-only → removed
type State string

const (
	Active      State = "active"       // seals and opens
	DecryptOnly State = "decrypt-only" // opens what it once sealed
	Removed     State = "removed"      // its wrapped form is gone from the live store
)

var states = []State{Active, DecryptOnly, Removed}

// code is the state in the blob, 0 for one that does not exist.
func (s State) code() byte { return byte(slices.Index(states, s) + 1) }

func stateOf(code byte) State {
	if code == 0 || int(code) > len(states) {
		return ""
	}
	return states[code-1]
}

// Next is the state after s. A removed key has none: ok is false.
func (s State) Next() (next State, ok bool) {
	next = stateOf(s.code() + 1)
	return next, s.code() != 0 && next != ""
}

// MayBecome reports whether a key that was seen in state s can be in state later
// at a later time: the same one, or any after it. It never goes back.
func (s State) MayBecome(later State) bool {
	return s.code() != 0 && s.code() <= later.code()
}
