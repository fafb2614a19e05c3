// Whether Python still wants the result: signals (Ctrl-C), and the caller's own question.
#pragma once

#include <nanobind/nanobind.h>

class Listener {
  public:
    explicit Listener(nanobind::object alive) : alive_(std::move(alive)) {}

    // To be called without the interpreter's lock.
    bool operator()() {
        nanobind::gil_scoped_acquire hold;
        if (failed_ || PyErr_CheckSignals() != 0) return !(failed_ = true);
        if (alive_.is_none()) return true;
        PyObject *answer = PyObject_CallNoArgs(alive_.ptr());
        if (!answer) return !(failed_ = true);
        const int yes = PyObject_IsTrue(answer);
        Py_DECREF(answer);
        return yes < 0 ? !(failed_ = true) : yes == 1;
    }

    // With the lock held again: raise what a signal's handler or the caller's question raised, or a MemoryError.
    void settle(int done) const {
        if (failed_) throw nanobind::python_error();
        if (done < 0) throw std::bad_alloc();
    }

  private:
    nanobind::object alive_;
    bool failed_ = false;
};
