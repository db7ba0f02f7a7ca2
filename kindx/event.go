package kindx

import "fmt"

// Event is one step of a longer operation.
type Event struct {
	// Subject is what the step is about: "engine", "packages" or the name of a
	// cluster.
	Subject string
	// Message says what happens or has happened, in one line.
	Message string
	// Warning marks what goes on but should be looked at.
	Warning bool
}

// String is the event as one line.
func (e Event) String() string {
	if e.Warning {
		return e.Subject + ": warning: " + e.Message
	}
	return e.Subject + ": " + e.Message
}

// sink sends events about one subject; its zero value drops them.
type sink struct {
	subject string
	on      func(Event)
}

func (s sink) say(format string, args ...any) { s.send(false, format, args...) }

func (s sink) warn(format string, args ...any) { s.send(true, format, args...) }

func (s sink) send(warning bool, format string, args ...any) {
	if s.on != nil {
		s.on(Event{Subject: s.subject, Message: fmt.Sprintf(format, args...), Warning: warning})
	}
}
