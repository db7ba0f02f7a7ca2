package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of a failed Attempt.
const (
	KindName    = "name"    // the name could not be looked up: nothing is known of the port
	KindTimeout = "timeout" // no answer came
	KindRefused = "refused" // the target, or something on the way, refused
	KindOther   = "other"   // see Error
)

// Attempt is what came of one try to connect.
type Attempt struct {
	Target    string `json:"target"`    // as given to Try
	Address   string `json:"address"`   // the address and port that were tried; "" where it did not come to that, and of a dns:// target
	LocalPort int    `json:"localPort"` // chosen beforehand, so that the try's flows can be told; 0 as above
	// Connected says that the TCP handshake was completed, whatever came afterwards; over
	// UDP, that there was an answer, which a port that lets everything in need not give. By
	// whom is for the flows to tell: a gateway or proxy may answer for any address. Of a
	// dns:// target it says that the name was found.
	Connected bool `json:"connected"`
	// Answer is what the target said of itself within 300 ms, at most 256 bytes less
	// space at its ends. Most targets say nothing.
	Answer  string  `json:"answer"`
	Error   string  `json:"error"`   // why there is no connection; "" if Connected
	Kind    string  `json:"kind"`    // of Error: one of the kinds above
	Seconds float64 `json:"seconds"` // until it was connected, or was known not to be

	// Certificates are those that a tls:// target presents, DER, its own first. The prober
	// has no trust bundle: they are for the caller to verify. Status is with what an http://
	// target answers. SpeechError is why there is neither though it connected.
	Certificates [][]byte `json:"certificates"`
	Status       int      `json:"status"`
	SpeechError  string   `json:"speechError"`

	// Addresses are those that the name of a dns:// target has.
	Addresses []string `json:"addresses"`
}

func (a Attempt) String() string {
	switch {
	case len(a.Addresses) > 0:
		return fmt.Sprintf("found in %.3f s: %s", a.Seconds, strings.Join(a.Addresses, ", "))
	case a.Connected && a.Status != 0:
		return fmt.Sprintf("connected to %s in %.3f s: status %d", a.Address, a.Seconds, a.Status)
	case a.Connected && a.SpeechError != "":
		return fmt.Sprintf("connected to %s in %.3f s, but: %s", a.Address, a.Seconds, a.SpeechError)
	case a.Connected && a.Answer != "":
		return fmt.Sprintf("connected to %s in %.3f s: %q", a.Address, a.Seconds, a.Answer)
	case a.Connected:
		return fmt.Sprintf("connected to %s in %.3f s", a.Address, a.Seconds)
	}
	return fmt.Sprintf("%s after %.1f s: %s", a.Kind, a.Seconds, a.Error)
}

// Argv is how the prober is run, at path, for one try of target (see Prober.Try), where it is
// not in a pod. Parse reads what it prints.
func Argv(path, target string, timeout time.Duration) []string {
	return []string{path, "try", "-timeout", timeout.String(), "--", target}
}

// Parse reads what the prober printed. Anything but a whole attempt at this target is
// an error: half an answer must not pass for a denial.
func Parse(printed, target string) (Attempt, error) {
	var a Attempt
	if err := json.Unmarshal([]byte(printed), &a); err != nil {
		return Attempt{}, fmt.Errorf("reading %q: %w", printed, err)
	}
	kinds := []string{KindName, KindTimeout, KindRefused, KindOther}
	switch {
	case a.Target != target:
		return Attempt{}, fmt.Errorf("reading %q: it is not of a try of %s", printed, target)
	case a.Connected == (a.Kind != ""), a.Connected == (a.Error != ""), !a.Connected && !slices.Contains(kinds, a.Kind):
		return Attempt{}, fmt.Errorf("reading %q: it says neither that it connected nor why not", printed)
	case strings.HasPrefix(target, dnsPrefix):
		if a.Connected != (len(a.Addresses) > 0) {
			return Attempt{}, fmt.Errorf("reading %q: it says neither what the name stands for nor why not", printed)
		}
	case (a.Connected || a.Kind == KindTimeout || a.Kind == KindRefused) && (a.Address == "" || a.LocalPort == 0):
		return Attempt{}, fmt.Errorf("reading %q: it does not say from and to where it was tried", printed)
	}
	return a, nil
}

const dnsPrefix = "dns://"

// checkTarget wants one of the forms that Try takes.
func checkTarget(target string) error {
	if host, is := strings.CutPrefix(target, dnsPrefix); is {
		if host == "" || strings.ContainsAny(host, ":/") {
			return errors.New("want dns://host, without a port")
		}
		return nil
	}
	address := target
	for _, prefix := range []string{"udp://", "tls://"} {
		address = strings.TrimPrefix(address, prefix)
	}
	if rest, is := strings.CutPrefix(target, "http://"); is {
		address, _, _ = strings.Cut(rest, "/")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return errors.New("want host:port with a port from 1 to 65535")
	}
	return nil
}
