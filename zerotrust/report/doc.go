// Package report tells of a run of phases: live on a terminal or as plain lines, as a
// table at the end, as JSON for machines, as JUnit XML for CI systems, as Markdown for a
// job summary, as an HTML page for people. It writes to the writers it is given and reads
// nothing of its surroundings: whether there is a terminal, how wide it is and whether
// to colour is for the caller to say.
//
// What a report quotes was said by servers and pods, and is not trusted: no renderer
// lets it steer a terminal, or be read as markup.
//
// # The JSON document
//
// [JSON] writes one object, described here for readers in any language, and by [Schema]
// for their programs. Within one "schemaVersion" (now 1) fields may be added, but none is
// removed, renamed or given another meaning. Times are RFC 3339 in UTC; durations are
// numbers of seconds, to the millisecond. Lists are never null. Fields marked ? are left
// out when empty.
//
//	schemaVersion  number   1
//	ok             bool     every phase and every check passed; nothing else means success
//	verifyOnly     bool     nothing was applied, only checked
//	started, ended time
//	seconds        number
//	metadata       object   free-form strings: versions, digests
//	phases         list     every phase of the run, each after those that it needs
//	  name, doc?     string
//	  needs          list     names of phases
//	  status         string   "passed", "failed", "unknown" (a check could not tell), "skipped" or "cancelled"
//	  error?         string   why it was not applied, skipped or cancelled
//	  started?       time     absent if it never was
//	  seconds        number   all of the phase
//	  applySeconds   number   its change alone
//	  checks         list     all of the phase's
//	    name           string
//	    doc?, hint?    string   what it shows; what to do when it does not pass
//	    edge?          object   the cell of the matrix that it is about
//	      from, to       string   names
//	      port           string   "8000", "53/UDP"
//	      allowed        bool     it is to get through
//	      authenticated  bool     both ends are to be authenticated first
//	    status         string   "passed", "failed" or "unknown" (could not tell, or was not asked)
//	    error?         string   why it did not pass
//	    started?       time     absent if it was not asked
//	    seconds        number
//	    evidence       object
//	      want?, got?    string   what was expected, what was seen
//	      details?       list     of strings
//	      source?        string   the command or API that it came from
package report
